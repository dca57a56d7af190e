"""Crates of a fabricated study: what is in them, and what the public validator says."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from rocrate.rocrate import ROCrate
from typer.testing import CliRunner

from m2mkd.cli import app
from m2mkd.files import sha256
from m2mkd.results.crate import write
from m2mkd.results.crate.check import check_crate
from m2mkd.results.crate.write import write_crate
from m2mkd.results.judge.results import Results
from m2mkd.results.tables.commands import Commands
from m2mkd.results.tables.compile import compile_tables
from m2mkd.study.phase import PHASES
from m2mkd.study.phases import TrainStudent
from tests.fabricated import ROOT, plan
from tests.unit.results.crates import edit

VALIDATOR = ROOT / "build" / "audit" / "bin" / "python"


def entities(folder: Path) -> dict[str, dict]:
    return {entity["@id"]: entity for entity in json.loads((folder / "ro-crate-metadata.json").read_text())["@graph"]}


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


def test_every_run_is_an_action_with_what_it_used_and_made(crate, crate_study):
    found = entities(crate)
    actions = [entity for id_, entity in found.items() if re.fullmatch(r"#run/\w+/\w{16}", id_)]
    assert len(actions) == len(crate_study.runs)
    (run,) = [
        run for run in crate_study.runs.values() if isinstance(run.config, TrainStudent) and run.config.init == "modules" and run.seed == 1
    ]
    action = found[f"#run/{run.id}"]
    folder = crate_study.folder(run.id)
    assert {part["@id"] for part in action["result"]} == {f"{folder}/{name}" for name in run.config.OUTPUTS}
    used = {part["@id"] for part in action["object"]}
    assert {f"{crate_study.folder(id_)}/run.json" for id_ in run.upstream["modules"]} < used
    assert any(re.fullmatch(r"data/packed/digits%4032/\w+/manifest\.json", path) for path in used)
    assert action["instrument"] == {"@id": "#tool/train_student"} and action["startTime"] < action["endTime"]
    image = found[action["containerImage"]["@id"]]
    assert (image["name"], image["sha256"]) == ("m2mkd-cpu.sif", "3" * 64)
    workflow = found["workflow/Snakefile"]
    assert {part["@id"] for part in workflow["step"]} == {f"#step/{run.phase}" for run in crate_study.runs.values()} | {"#step/compile"}
    assert found["#value/overrides"]["value"] == "seeds=3"
    assert found["https://arxiv.org/abs/2402.16918"]["@type"] == "ScholarlyArticle"
    positions = [int(found[f"#step/{name}"]["position"]) for name in PHASES if f"#step/{name}" in found]
    assert positions == sorted(positions)


def test_a_crate_is_whole_and_knows_no_machine(crate, crate_study):
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


def test_its_commands_name_the_teachers_of_a_study_too(crate_study):
    some = plan(Path(), "smoke", ["teacher_deit_large", "vmoe_base/end_to_end"])
    assert 'experiments=["teacher_deit_large", "vmoe_base/end_to_end"]' in Commands(some, some.selected).to("all")
    assert plan(Path(), "smoke", some.selected).key == some.key


def test_what_people_read(crate, crate_study):
    artifact = (crate / "ARTIFACT.md").read_text()
    assert "This scale judges nothing about the paper." in artifact
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
def test_weights_are_in_it_as_wished(crate_study, weights):
    crate = write_crate(Results.read(crate_study), weights)
    checked = check_crate(crate)
    assert checked.left_out == (0 if weights == "all" else 22 + 6)
    assert (crate / "cards").exists() == (weights == "all")


def test_from_a_crate_everything_is_compiled_as_it_was(crate, crate_study, monkeypatch):
    Path(crate_study.root, "tables", f"report-{crate_study.key}.json").unlink()  # of the report, which is made of images too
    before = {path.name: path.read_bytes() for path in Path(crate_study.root, "tables").iterdir()}
    monkeypatch.chdir(crate)
    for path in Path(crate_study.root, "tables").iterdir():
        path.unlink()
    compile_tables(Results.read(crate_study))
    assert {path.name: path.read_bytes() for path in Path(crate_study.root, "tables").iterdir()} == before


def test_an_interruption_leaves_the_earlier_crate(crate, crate_study, monkeypatch):
    before = (crate / "manifest-sha256.txt").read_bytes()

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(write, "crate_graph", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_crate(Results.read(crate_study))
    assert (crate / "manifest-sha256.txt").read_bytes() == before
    check_crate(crate)
    write_crate(Results.read(crate_study), "none")
    assert check_crate(crate).left_out == 28
    assert [path.name for path in Path(crate_study.root).glob(".crate*")] == []


def test_the_commands(crate_study, monkeypatch):
    selected = ["--scale", "smoke", "--experiment", "vmoe_base/end_to_end", "--experiment", "vmoe_base/m2mkd", "--set", "seeds=3"]
    written = CliRunner().invoke(app, ["crate", *selected, "--set", "seeds_per_job=1"])
    assert written.exit_code == 0, written.output
    checked = CliRunner().invoke(app, ["crate", "check", "results/smoke/crate"])
    assert "match their digests; 22 outputs are recorded by digest only" in checked.stdout
    (Path("results/smoke/crate") / "more.txt").touch()
    assert (
        "1 further files do not belong to the crate, such as more.txt"
        in CliRunner().invoke(app, ["crate", "check", "results/smoke/crate"]).stdout
    )
