"""Crates of a fabricated study: what is in them, what the public validator says, and what `m2mkd crate check` refuses."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from rocrate.rocrate import ROCrate
from typer.testing import CliRunner

from m2mkd.cli import app
from m2mkd.errors import InputError
from m2mkd.files import sha256
from m2mkd.results.crate import write
from m2mkd.results.crate.check import check_crate
from m2mkd.results.crate.contents import SOURCES
from m2mkd.results.crate.write import write_crate
from m2mkd.results.judge.results import Results
from m2mkd.results.report.write import write_report
from m2mkd.results.tables.commands import Commands
from m2mkd.results.tables.compile import compile_tables
from m2mkd.study.phase import PHASES
from m2mkd.study.phases import TrainStudent
from m2mkd.study.study import Study
from m2mkd.training.job import provenance
from tests.fabricated import ROOT, finish, first, plan

VALIDATOR = ROOT / "build" / "audit" / "bin" / "python"
IMAGE = {"image": "/somewhere/m2mkd-cpu.sif", "digest": "sha256:" + "3" * 64, "revision": "abc", "lock": "1" * 64, "sbom": "2" * 64}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Iterator[tuple[Path, Study]]:
    """A project with a finished study; tests that change something work in a copy."""
    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        study = plan(root, "smoke", ["vmoe_base/end_to_end", "vmoe_base/m2mkd"], seeds=3)
        for name in set(SOURCES) - {"config", "results/published"}:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, name)
        finish(study, computed=provenance() | {"container": IMAGE})
        compile_tables(Results.read(study))
        write_report(Results.read(study))
        write_crate(Results.read(study))
        yield root, study


@pytest.fixture
def study(project, tmp_path, monkeypatch) -> Study:
    """The study in a copy of the project, which is the working directory."""
    shutil.copytree(project[0], tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return project[1]


@pytest.fixture
def crate(study) -> Path:
    return Path(study.root) / "crate"


def entities(folder: Path) -> dict[str, dict]:
    return {entity["@id"]: entity for entity in json.loads((folder / "ro-crate-metadata.json").read_text())["@graph"]}


def edit(folder: Path, change) -> None:
    path = folder / "ro-crate-metadata.json"
    content = json.loads(path.read_text())
    change({entity["@id"]: entity for entity in content["@graph"]})
    path.write_text(json.dumps(content))


def sign(folder: Path, *paths: str) -> None:
    """Make the digests of changed files right again, in the manifest and in the metadata, as a forger would."""
    manifest = folder / "manifest-sha256.txt"
    for path in paths:
        digest = sha256(folder / path)
        manifest.write_text(re.sub(rf"\w+  {re.escape(path)}\n", f"{digest}  {path}\n", manifest.read_text()))
        edit(folder, lambda found, path=path, digest=digest: found.get(path, {}).update(sha256=digest))
    digest = sha256(folder / "ro-crate-metadata.json")
    manifest.write_text(re.sub(r"\w+  ro-crate-metadata", f"{digest}  ro-crate-metadata", manifest.read_text()))


def test_the_public_validator_finds_nothing_and_would_find_something(crate, tmp_path):
    if not VALIDATOR.exists():
        pytest.fail("the validator is absent; 'make build/audit/.ok' installs it, as 'make test' does")
    broken = tmp_path / "broken"
    shutil.copytree(crate, broken)
    edit(broken, lambda found: [found["#step/train_student"].pop("workExample"), found["workflow/Snakefile"].pop("hasPart")])
    script = ROOT / "tests" / "validate_crate.py"
    done = subprocess.run(
        [VALIDATOR, script, tmp_path / "http", crate, broken],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    good, bad = json.loads(done.stdout).values()
    assert good["issues"] == [] and good["checks"] > 80
    assert any("HowToStep must refer to its corresponding tool" in issue for issue in bad["issues"])
    assert any("hasPart" in issue for issue in bad["issues"])


def test_every_run_is_an_action_with_what_it_used_and_made(crate, study):
    found = entities(crate)
    actions = [entity for id_, entity in found.items() if re.fullmatch(r"#run/\w+/\w{16}", id_)]
    assert len(actions) == len(study.runs)
    (run,) = [run for run in study.runs.values() if isinstance(run.config, TrainStudent) and run.config.init == "modules" and run.seed == 1]
    action = found[f"#run/{run.id}"]
    folder = study.folder(run.id)
    assert {part["@id"] for part in action["result"]} == {f"{folder}/{name}" for name in run.config.OUTPUTS}
    used = {part["@id"] for part in action["object"]}
    assert {f"{study.folder(id_)}/run.json" for id_ in run.upstream["modules"]} < used
    assert any(re.fullmatch(r"data/packed/digits%4032/\w+/manifest\.json", path) for path in used)
    assert action["instrument"] == {"@id": "#tool/train_student"} and action["startTime"] < action["endTime"]
    image = found[action["containerImage"]["@id"]]
    assert (image["name"], image["sha256"]) == ("m2mkd-cpu.sif", "3" * 64)
    workflow = found["workflow/Snakefile"]
    assert {part["@id"] for part in workflow["step"]} == {f"#step/{run.phase}" for run in study.runs.values()} | {"#step/compile"}
    assert found["#value/overrides"]["value"] == "seeds=3"
    assert found["https://arxiv.org/abs/2402.16918"]["@type"] == "ScholarlyArticle"
    positions = [int(found[f"#step/{name}"]["position"]) for name in PHASES if f"#step/{name}" in found]
    assert positions == sorted(positions)


def test_a_crate_is_whole_and_knows_no_machine(crate, study):
    checked = check_crate(crate)
    # Of everything but students the weights are there by their digest alone: meta, 4 modules, teacher, 4 stages, 3 seeds x 4 modules.
    assert checked.left_out == 1 + 4 + 1 + 4 + 12 and checked.beside == ()
    assert {path.name for path in crate.glob("results/smoke/runs/*/*/model.safetensors")} == {"model.safetensors"}
    assert {path.parts[-3] for path in crate.glob("results/smoke/runs/*/*/model.safetensors")} == {"train_student"}
    for path in crate.rglob("*"):
        if path.is_file() and path.suffix not in (".png", ".parquet"):
            assert str(Path.cwd()) not in path.read_text(), path
    assert not list(crate.rglob("__pycache__"))
    ROCrate(crate)  # is read by anybody's library
    listed = subprocess.run(
        ["sha256sum", "--check", "--quiet", "manifest-sha256.txt"], cwd=crate, capture_output=True, text=True, check=False
    )
    assert listed.returncode == 0, listed.stdout


def test_its_commands_name_the_teachers_of_a_study_too(study):
    some = plan(Path(), "smoke", ["teacher_deit_large", "vmoe_base/end_to_end"])
    assert 'experiments=["teacher_deit_large", "vmoe_base/end_to_end"]' in Commands(some, some.selected).to("all")
    assert plan(Path(), "smoke", some.selected).key == some.key


def test_what_people_read(crate, study):
    artifact = (crate / "ARTIFACT.md").read_text()
    assert "At this scale nothing is said about the paper." in artifact
    assert re.search(r"\| vmoe_gain_100 +\| smoke-pass \|", artifact)
    assert 'experiments=["vmoe_base/end_to_end", "vmoe_base/m2mkd"]' in artifact
    assert "Results Reproduced | 0 claims of the paper are judged" in artifact
    cards = sorted(path.name for path in (crate / "cards").iterdir())
    assert cards == ["vmoe_base-end_to_end-corrected.md", "vmoe_base-m2mkd-corrected.md"]
    card = (crate / "cards" / cards[1]).read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["model-index"][0]["results"][0]["metrics"][0]["value"] == pytest.approx(0.93)
    assert front["license"] == "apache-2.0" and front["datasets"] == ["digits"]
    assert "A reduced model, not the paper's." in card and "0: 90.00, 1: 92.00, 2: 97.00" in card
    for path, digest in re.findall(r"`(results/\S+safetensors)` \| `(\w{64})`", card):
        assert sha256(crate / path) == digest


@pytest.mark.parametrize("weights", ["all", "none"])
def test_weights_are_in_it_as_wished(study, weights):
    Path(study.root, "overview.png").unlink()  # which a study without students does not have
    crate = write_crate(Results.read(study), weights)
    checked = check_crate(crate)
    assert checked.left_out == (0 if weights == "all" else 22 + 6)
    assert (crate / "cards").exists() == (weights == "all")


def test_from_a_crate_everything_is_compiled_as_it_was(crate, study, monkeypatch):
    before = {path.name: path.read_bytes() for path in Path(study.root, "tables").iterdir()}
    monkeypatch.chdir(crate)
    for path in Path(study.root, "tables").iterdir():
        path.unlink()
    compile_tables(Results.read(study))
    assert {path.name: path.read_bytes() for path in Path(study.root, "tables").iterdir()} == before


def rewrite(path: Path, text: str) -> None:
    path.unlink()  # a link to the project's own
    path.write_text(text)


def forge(folder: Path, run: str, change) -> None:
    content = json.loads((folder / run).read_text())
    change(content)
    rewrite(folder / run, json.dumps(content))


def forget(folder: Path, run: str) -> None:
    """Leave a record out of the manifest and the metadata's digests, as if it had never been written."""
    manifest = folder / "manifest-sha256.txt"
    manifest.write_text(re.sub(rf"\w+  {re.escape(run)}\n", "", manifest.read_text()))
    edit(folder, lambda found: found[run].pop("sha256"))
    sign(folder)


def replace_a_table(folder: Path, run: str) -> None:
    table = Path(run).parents[2] / "tables/claims.csv"
    rewrite(folder / table, "id,verdict\n")
    sign(folder, str(table))


def forget_an_evaluation(folder: Path, run: str) -> None:
    record = sorted((folder / Path(run).parents[1]).glob("evaluate/*/run.json"))[0]
    forget(folder, str(record.relative_to(folder)))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (replace_a_table, r"claims\.csv: not what was compiled, by study-\w+\.json"),
        (forget_an_evaluation, r"study-\w+\.json: lists evaluate/\w+, which is not in the crate"),
        (lambda crate, run: rewrite(crate / run / "metrics.json", "{}"), r"metrics\.json: sha256 is .* but manifest-sha256\.txt says"),
        (lambda crate, run: (crate / run / "metrics.json").unlink(), r"metrics\.json: absent, though manifest"),
        (
            lambda crate, run: [rewrite(crate / run / "metrics.json", "{}"), sign(crate, f"{run}/metrics.json")],
            r"not the file that run\.json",
        ),
        (
            lambda crate, run: [
                forge(crate, f"{run}/run.json", lambda record: record["config"]["recipe"].update(lr=0.5)),
                sign(crate, f"{run}/run.json"),
            ],
            "key does not follow from its config",
        ),
        (lambda crate, run: forget(crate, f"{run}/run.json"), r"builds on train_student/\w+, which is not in the crate"),
        (lambda crate, run: forge(crate, f"{run}/run.json", lambda record: record.update(outputs=None)), "not a whole record of a run"),
        (
            lambda crate, run: forge(crate, f"{run}/run.json", lambda record: record.update(upstream={"a": 1})),
            "not a whole record of a run",
        ),
        (
            lambda crate, run: [edit(crate, lambda found: found["Makefile"].update(sha256="0")), sign(crate)],
            "sha256 of Makefile is not that",
        ),
        (lambda crate, run: (crate / "manifest-sha256.txt").write_text("0" * 64 + "  ../x\n"), "line 1: not a sha256 and a path within"),
        (lambda crate, run: (crate / "manifest-sha256.txt").write_bytes(b"\xff"), r"manifest-sha256\.txt: byte 0 is not UTF-8"),
        (lambda crate, run: (crate / "ro-crate-metadata.json").write_text("{}"), "not the metadata of an RO-Crate"),
        (lambda crate, run: (crate / "ro-crate-metadata.json").unlink(), "absent, so this is no crate"),
    ],
    ids=[
        *(
            "table",
            "evaluation",
            "changed",
            "gone",
            "signed",
            "configuration",
            "upstream",
            "outputs",
            "roles",
            "description",
            "path",
            "encoding",
            "metadata",
            "none",
        ),
    ],
)
def test_a_crate_that_was_tampered_with_is_refused_by_name(crate, study, tmp_path, damage, message):
    elsewhere = tmp_path / "elsewhere"
    shutil.move(crate, elsewhere)
    damage(elsewhere, study.folder(first(study, "train_student").id))
    with pytest.raises(InputError, match=message):
        check_crate(elsewhere)


def test_what_is_not_of_the_study_goes_into_no_crate(crate, study):
    shutil.rmtree(crate)
    weights = Path(study.folder(first(study, "train_student").id), "model.safetensors")
    good = weights.read_bytes()
    rewrite(weights, "others")
    with pytest.raises(InputError, match=r"model\.safetensors: its sha256 is not the recorded one"):
        write_crate(Results.read(study))
    assert list(Path(study.root).glob(".crate*")) == [] and not crate.exists()
    weights.write_bytes(good)
    table = Path(study.root, "tables", "results.csv")
    rewrite(table, table.read_text().replace("0.93", "0.99"))
    with pytest.raises(InputError, match=r"results\.csv: its sha256 is not the recorded one"):
        write_crate(Results.read(study))
    Path(study.root, "tables", f"study-{study.key}.json").unlink()
    with pytest.raises(InputError, match="tables and report are not those of this study"):
        write_crate(Results.read(study))


def test_an_interruption_leaves_the_earlier_crate(crate, study, monkeypatch):
    before = (crate / "manifest-sha256.txt").read_bytes()

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(write, "crate_graph", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_crate(Results.read(study))
    assert (crate / "manifest-sha256.txt").read_bytes() == before
    check_crate(crate)
    write_crate(Results.read(study), "none")
    assert check_crate(crate).left_out == 28
    assert [path.name for path in Path(study.root).glob(".crate*")] == []


def test_the_commands(study, monkeypatch):
    selected = ["--scale", "smoke", "--experiment", "vmoe_base/end_to_end", "--experiment", "vmoe_base/m2mkd", "--set", "seeds=3"]
    written = CliRunner().invoke(app, ["crate", *selected, "--set", "seeds_per_job=1"])
    assert written.exit_code == 0, written.output
    checked = CliRunner().invoke(app, ["crate", "check", "results/smoke/crate"])
    assert "match their digests; 22 outputs are in it by their digest alone" in checked.stdout
    (Path("results/smoke/crate") / "more.txt").touch()
    assert (
        "1 files beside them are not of the crate, such as more.txt"
        in CliRunner().invoke(app, ["crate", "check", "results/smoke/crate"]).stdout
    )
