"""Crates of a fabricated study: what is in them, what the public validator says, and what `m2mkd crate check` refuses."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml
from rocrate.rocrate import ROCrate
from typer.testing import CliRunner

from m2mkd.cli import app
from m2mkd.data.manifest import manifest_digest
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
from m2mkd.study.keys import digest, sealed
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
        now = sha256(folder / path)
        manifest.write_text(re.sub(rf"\w+  {re.escape(path)}\n", f"{now}  {path}\n", manifest.read_text()))
        edit(folder, lambda found, path=path, now=now: found.get(quote(path), {}).update(sha256=now))
    metadata = sha256(folder / "ro-crate-metadata.json")
    manifest.write_text(re.sub(r"\w+  ro-crate-metadata", f"{metadata}  ro-crate-metadata", manifest.read_text()))


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
    for path, known in re.findall(r"`(results/\S+safetensors)` \| `(\w{64})`", card):
        assert sha256(crate / path) == known


@pytest.mark.parametrize("weights", ["all", "none"])
def test_weights_are_in_it_as_wished(study, weights):
    crate = write_crate(Results.read(study), weights)
    checked = check_crate(crate)
    assert checked.left_out == (0 if weights == "all" else 22 + 6)
    assert (crate / "cards").exists() == (weights == "all")


def test_from_a_crate_everything_is_compiled_as_it_was(crate, study, monkeypatch):
    Path(study.root, "tables", f"report-{study.key}.json").unlink()  # of the report, which is made of images too
    before = {path.name: path.read_bytes() for path in Path(study.root, "tables").iterdir()}
    monkeypatch.chdir(crate)
    for path in Path(study.root, "tables").iterdir():
        path.unlink()
    compile_tables(Results.read(study))
    assert {path.name: path.read_bytes() for path in Path(study.root, "tables").iterdir()} == before


def rewrite(path: Path, text: str) -> None:
    path.unlink()  # a link to the project's own
    path.write_text(text)


def forge(folder: Path, path: str, change) -> None:
    """Change a file that carries its own digest, and make all digests of it right again, as a forger would."""
    content = json.loads((folder / path).read_text())
    change(content)
    rewrite(folder / path, json.dumps(sealed(content)))
    sign(folder, path)


def forget(folder: Path, run: str) -> None:
    """Leave a record out of the manifest and the metadata's digests, as if it had never been written."""
    manifest = folder / "manifest-sha256.txt"
    manifest.write_text(re.sub(rf"\w+  {re.escape(run)}\n", "", manifest.read_text()))
    edit(folder, lambda found: found[run].pop("sha256"))
    sign(folder)


def receipt_of(folder: Path, kind: str = "study") -> str:
    return next(folder.glob(f"results/smoke/tables/{kind}-*.json")).relative_to(folder).as_posix()


def replace_a_table(folder: Path, run: str) -> None:
    table = Path(run).parents[2] / "tables/claims.csv"
    rewrite(folder / table, "id,verdict\n")
    sign(folder, str(table))


def replace_a_table_and_its_receipt(folder: Path, run: str, name: str = "tables/results.csv") -> None:
    path = f"results/smoke/{name}"
    rewrite(folder / path, (folder / path).read_text().replace("0.93", "0.99"))
    sign(folder, path)
    forge(folder, receipt_of(folder), lambda receipt: receipt["shown"].update({name: sha256(folder / path)}))


def replace_a_measurement(folder: Path, run: str) -> None:
    """Other accuracies, with every digest that follows, but the old tables."""
    record = sorted((folder / Path(run).parents[1]).glob("evaluate/*/run.json"))[0].relative_to(folder)
    metrics = record.with_name("metrics.json")
    content = json.loads((folder / metrics).read_text())
    rewrite(folder / metrics, json.dumps(content | {"top1": 0.99}))
    sign(folder, str(metrics))
    forge(folder, str(record), lambda found: found["outputs"].update({"metrics.json": sha256(folder / metrics)}))
    outputs = digest(json.loads((folder / record).read_text())["outputs"])
    forge(folder, receipt_of(folder), lambda receipt: receipt["runs"].update({"/".join(record.parts[-3:-1]): outputs}))


def replace_a_set(folder: Path, run: str) -> None:
    path = next(folder.glob("data/packed/digits@32/*/manifest.json")).relative_to(folder)
    content = {name: value for name, value in json.loads((folder / path).read_text()).items() if name != "digest"}
    content["classes"] = content["classes"][::-1]
    rewrite(folder / path, json.dumps(content | {"digest": manifest_digest(content)}))
    sign(folder, str(path))


def lead_out(folder: Path, run: str) -> None:
    path = folder / run / "metrics.json"
    (folder.parent / "outside.json").write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(folder.parent / "outside.json")


def forget_an_evaluation(folder: Path, run: str) -> None:
    record = sorted((folder / Path(run).parents[1]).glob("evaluate/*/run.json"))[0]
    forget(folder, str(record.relative_to(folder)))


def remove(folder: Path, path: str) -> None:
    """Remove a file and every trace of it."""
    (folder / path).unlink()
    manifest = folder / "manifest-sha256.txt"
    manifest.write_text(re.sub(rf"\w+  {re.escape(path)}\n", "", manifest.read_text()))
    metadata = folder / "ro-crate-metadata.json"
    content = json.loads(metadata.read_text())
    content["@graph"] = [entity for entity in content["@graph"] if entity["@id"] != quote(path)]
    for entity in content["@graph"]:
        for name, value in entity.items():
            if isinstance(value, list):
                entity[name] = [one for one in value if one != {"@id": quote(path)}]
    metadata.write_text(json.dumps(content))
    sign(folder)


def without_action(folder: Path, run: str) -> None:
    edit(folder, lambda found: found[f"#run/{'/'.join(Path(run).parts[-2:])}"].update({"@type": "Thing"}))
    sign(folder)


DAMAGES = {
    "table": (replace_a_table, r"claims\.csv: not what was compiled, by study-\w+\.json"),
    "table and receipt": (replace_a_table_and_its_receipt, r"results\.csv: not what its runs give when they are compiled again"),
    "metrics and receipt": (
        lambda crate, run: replace_a_table_and_its_receipt(crate, run, "metrics.json"),
        r"smoke/metrics\.json: not what its runs give when they are compiled again",
    ),
    "measurement": (replace_a_measurement, r"not what its runs give when they are compiled again \(\d+ more\)"),
    "report": (
        lambda crate, run: [rewrite(crate / "results/smoke/report.html", "0.99"), sign(crate, "results/smoke/report.html")],
        r"report\.html: not what was written, by report-\w+\.json",
    ),
    "receipt": (lambda crate, run: remove(crate, receipt_of(crate)), r"results: has 0 receipts of tables"),
    "receipt of the report": (lambda crate, run: remove(crate, receipt_of(crate, "report")), r"report-\w+\.json: absent"),
    "receipt of others": (
        lambda crate, run: forge(crate, receipt_of(crate), lambda receipt: receipt["runs"].popitem()),
        "is not the receipt of this study",
    ),
    "format": (
        lambda crate, run: forge(crate, receipt_of(crate), lambda receipt: receipt.update(format=3)),
        r"is of tables of format 3, but this version compiles format \d",
    ),
    "evaluation": (forget_an_evaluation, r"study-\w+\.json: lists evaluate/\w+, which is not in the crate"),
    "changed": (
        lambda crate, run: rewrite(crate / run / "metrics.json", "{}"),
        r"metrics\.json: sha256 is .* but manifest-sha256\.txt says",
    ),
    "gone": (lambda crate, run: (crate / run / "metrics.json").unlink(), r"metrics\.json: absent, though manifest"),
    "signed": (
        lambda crate, run: [rewrite(crate / run / "metrics.json", "{}"), sign(crate, f"{run}/metrics.json")],
        r"metrics\.json: sha256 is .*, but the run recorded",
    ),
    "weights": (
        lambda crate, run: [rewrite(crate / run / "model.safetensors", "others"), sign(crate, f"{run}/model.safetensors")],
        r"model\.safetensors: not the file that run\.json",
    ),
    "unsealed": (
        lambda crate, run: [rewrite(crate / run / "run.json", "{}"), sign(crate, f"{run}/run.json")],
        r"run\.json: not a whole record",
    ),
    "sealed": (
        lambda crate, run: [
            rewrite(crate / run / "run.json", (crate / run / "run.json").read_text().replace('"Linux"', '"Lunix"')),
            sign(crate, f"{run}/run.json"),
        ],
        r"run\.json: is damaged: its content is not what its digest says",
    ),
    "configuration": (
        lambda crate, run: forge(crate, f"{run}/run.json", lambda record: record["config"]["recipe"].update(lr=0.5)),
        "key does not follow from its config",
    ),
    "upstream": (lambda crate, run: forget(crate, f"{run}/run.json"), r"lists train_student/\w+, which is not in the crate"),
    "outputs": (
        lambda crate, run: forge(crate, f"{run}/run.json", lambda record: record.update(outputs=None)),
        "not a whole record of a run",
    ),
    "names of outputs": (
        lambda crate, run: forge(crate, f"{run}/run.json", lambda record: record["outputs"].update({"../../../etc/passwd": "0" * 64})),
        r"run\.json: outputs are .*\.\./\.\./\.\./etc/passwd, which are not those of train_student",
    ),
    "roles": (
        lambda crate, run: forge(crate, f"{run}/run.json", lambda record: record.update(upstream={"a": 1})),
        "not a whole record of a run",
    ),
    "provenance": (
        lambda crate, run: forge(crate, f"{run}/run.json", lambda record: record.pop("provenance")),
        r"not a whole record of a run \(KeyError: 'provenance'",
    ),
    "part of provenance": (
        lambda crate, run: forge(crate, f"{run}/run.json", lambda record: record["provenance"].pop("git_commit")),
        r"run\.json: provenance has no git_commit",
    ),
    "action": (without_action, r"run\.json: no action of the metadata is of this run"),
    "data of a run": (
        lambda crate, run: forge(crate, f"{run}/run.json", lambda record: record["data"].update({"digits@32": "0" * 64})),
        r"run\.json: the run saw digits@32 with digest 0{12}\.\.\., but data/packed/digits@32/\w+ is ",
    ),
    "no data of a run": (
        lambda crate, run: forge(crate, f"{run}/run.json", lambda record: record.pop("data")),
        r"run\.json: does not say which data the run saw",
    ),
    "set": (replace_a_set, r"run\.json: the run saw digits@32 with digest \w+\.\.\., but data/packed/digits@32/\w+ is .*more"),
    "no set": (
        lambda crate, run: remove(crate, next(crate.glob("data/packed/digits@32/*/*.json")).relative_to(crate).as_posix()),
        r"digits@32/\w+/manifest\.json: is not in the crate, but its runs saw that set",
    ),
    "link out": (lead_out, r"metrics\.json: leads out of the crate, to /"),
    "description": (
        lambda crate, run: [edit(crate, lambda found: found["Makefile"].update(sha256="0")), sign(crate)],
        "sha256 of Makefile is not that",
    ),
    "path": (
        lambda crate, run: (crate / "manifest-sha256.txt").write_text("0" * 64 + "  ../x\n"),
        "line 1: not a sha256 and a path within",
    ),
    "twice": (
        lambda crate, run: (crate / "manifest-sha256.txt").write_text(2 * ("0" * 64 + "  README.md\n")),
        r"line 2: README\.md stands twice",
    ),
    "encoding": (lambda crate, run: (crate / "manifest-sha256.txt").write_bytes(b"\xff"), r"manifest-sha256\.txt: byte 0 is not UTF-8"),
    "metadata": (lambda crate, run: (crate / "ro-crate-metadata.json").write_text("{}"), "not the metadata of an RO-Crate"),
    "none": (lambda crate, run: (crate / "ro-crate-metadata.json").unlink(), "absent, so this is no crate"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_crate_that_was_tampered_with_is_refused_by_name(crate, study, tmp_path, name):
    damage, message = DAMAGES[name]
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
