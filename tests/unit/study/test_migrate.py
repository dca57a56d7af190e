"""Finished runs of the old layout move to their keys of today; what cannot be moved is named and stays."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from typer.testing import CliRunner

from m2mkd.cli import app
from m2mkd.files import sha256, write_json
from m2mkd.models.weights import load_weights, save_weights
from m2mkd.results.read.records import read_record
from m2mkd.study.keys import run_key
from m2mkd.study.migrate import migrate
from m2mkd.study.phase import METRICS, RECORD, WEIGHTS
from m2mkd.study.run import Run
from m2mkd.study.state import is_done, surplus
from m2mkd.study.study import Study
from tests.fabricated import finish, plan

EXPERIMENTS = ["vmoe_base/m2mkd", "fewshot_cifar100_vmoe"]
CHANGES = {"fewshot_cifar100_vmoe": {"students": ["vmoe_base/m2mkd"]}}
PER_JOB = 2
"""Seeds of one run of the old layout."""

Old = dict[str, Path]
"""Folder in the old layout, by id of today's run."""


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    """Two batches of two seeds, finished as of today."""
    monkeypatch.chdir(tmp_path)
    sets = [f"experiment_changes.fewshot_cifar100_vmoe.students={json.dumps(CHANGES['fewshot_cifar100_vmoe']['students'])}"]
    study = plan(tmp_path, "smoke", EXPERIMENTS, sets, seeds=2 * PER_JOB)
    finish(study, lambda run, seed: 0.5 + seed / 10)
    return study


@pytest.fixture
def old(study) -> Old:
    """The same results as an earlier version left them, and nothing else."""
    folders = as_of_old(study)
    shutil.rmtree("results/smoke/runs")
    Path("results/smoke/old").rename("results/smoke/runs")
    return {run_id: Path("results/smoke/runs", *folder.parts[-3:]) for run_id, folder in folders.items()}


def as_of_old(study: Study) -> Old:
    """Copies of the finished runs in ``results/smoke/old``, with the keys, folders and records of the layout before seeds had runs."""
    ids: dict[str, str] = {}
    folders: Old = {}
    for run in study.runs.values():
        seeds = [0] if run.seed is None else [run.seed // PER_JOB * PER_JOB + slot for slot in range(PER_JOB)]
        config = {name: value for name, value in run.content["config"].items() if name != "seed"} | {"replicates": seeds}
        upstream = {role: [ids[run_id] for run_id in of] for role, of in run.upstream.items()}
        ids[run.id] = f"{run.phase}/{run_key(run.config.FORMAT, config, upstream)}"
        slot = seeds.index(run.seed or 0)
        folders[run.id] = Path("results/smoke/old", ids[run.id], str(slot))
        shutil.copytree(study.folder(run.id), folders[run.id])
        path = folders[run.id] / RECORD
        record = json.loads(path.read_text())
        del record["seed"]
        record |= {"id": ids[run.id], "key": ids[run.id].partition("/")[2], "slot": slot, "replicate": run.seed or 0}
        write_json(path, record | {"config": config, "upstream": upstream})
    return folders


def content_of(folder: Path) -> Mapping[str, str]:
    return {path.name: sha256(path) for path in folder.iterdir() if path.name != RECORD}


def first(study: Study, phase: str, seed: int | None = None) -> Run:
    return next(run for run in study.runs.values() if run.phase == phase and seed in (None, run.seed))


def moved(study: Study) -> set[str]:
    return {run.id for run in study.runs.values() if is_done(study, run)}


def test_every_run_moves_to_the_key_that_planning_gives_it(study, old):
    assert len(set(old.values())) == len(study.runs) and not moved(study)
    before = {run_id: content_of(folder) for run_id, folder in old.items()}
    said = list(migrate(Path("results/smoke")))
    assert said == [f"{len(study.runs)} of {len(study.runs)} finished runs were moved to their new keys"]
    assert moved(study) == set(study.runs)
    assert surplus(study) == []
    assert {run_id: content_of(Path(study.folder(run_id))) for run_id in study.runs} == before
    for record in (read_record(study, run) for run in study.runs.values()):  # every digest, every field of the configuration
        kept = json.loads(Path(study.folder(record.run.id), RECORD).read_text())
        assert kept["seed"] == record.run.seed and not {"slot", "replicate"} & kept.keys()
        assert kept["migrated_from"] == "/".join(old[record.run.id].parts[-3:])
        assert not old[record.run.id].exists()


def test_once_more_there_is_nothing_to_move(study, old):
    list(migrate(Path("results/smoke")))
    assert list(migrate(Path("results/smoke"))) == ["results/smoke: has no runs of the old layout"]
    assert moved(study) == set(study.runs)


def test_the_command_says_it(study, old):
    done = CliRunner().invoke(app, ["runs", "migrate", "--scale", "smoke"])
    assert (done.exit_code, done.stdout) == (0, f"{len(study.runs)} of {len(study.runs)} finished runs were moved to their new keys\n")


def test_a_damaged_run_and_what_builds_on_it_stay_and_are_named(study, old):
    run = first(study, "train_student", seed=1)
    (old[run.id] / WEIGHTS).write_bytes(b"other weights")
    staying = {run.id, *(other.id for other in study.runs.values() if run.id in other.parents)}
    assert len(staying) == 3  # it, its evaluation and its probe
    said = list(migrate(Path("results/smoke")))
    assert moved(study) == set(study.runs) - staying
    for run_id in staying:
        assert (old[run_id] / RECORD).is_file()
        (line,) = [line for line in said if line.startswith(f"{old[run_id]}: not moved, because ")]
        assert "\n" not in line
        assert line.endswith(f"its {WEIGHTS} differs from the recorded one")
        assert (f"it builds on {old[run.id]}, which is not moved" in line) == (run_id != run.id)
    assert said[-1] == f"{len(study.runs) - 3} of {len(study.runs)} finished runs were moved to their new keys"
    assert len(said) == 4


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_text("{"), f"its {RECORD}: not valid JSON"),
        (lambda path: path.write_text("[" * 100_000), f"its {RECORD}: not valid JSON: it is nested too deep"),
        (lambda path: path.write_text('{"id": 1, "id": 2}'), f"its {RECORD}: not valid JSON: the name 'id' occurs twice"),
        (lambda path: path.write_text("[1]"), f"its {RECORD}: holds a list"),
        (lambda path: path.write_text("{}"), f"its {RECORD} is not a complete record (id: Field required)"),
        (lambda path: edit(path, lambda record: record.update(config=[1])), f"its {RECORD} is not a complete record (config: "),
        (lambda path: edit(path, lambda record: record.update(upstream={"a": 1})), f"its {RECORD} is not a complete record (upstream.a: "),
        (lambda path: edit(path, lambda record: record["config"].update(replicates=3)), f"its {RECORD} is not a complete record (config.r"),
        (
            lambda path: edit(path, lambda record: record["outputs"].update({"../../../../claims.tsv": "0" * 64})),
            "its outputs are not those of evaluate",
        ),
        (lambda path: edit(path, lambda record: record["config"].update(threads=2)), "its key does not follow from its record"),
        (lambda path: edit(path, lambda record: record.update(replicate=None)), "its record is of another seed than its folder"),
    ],
)
def test_a_record_that_is_not_whole_is_a_reason_to_stay(study, old, damage, reason):
    run = first(study, "evaluate", seed=2)
    damage(old[run.id] / RECORD)
    said = list(migrate(Path("results/smoke")))
    assert moved(study) == set(study.runs) - {run.id}
    assert len(said) == 2 and said[0].startswith(f"{old[run.id]}: not moved, because {reason}")
    assert (old[run.id] / METRICS).is_file()


def edit(path: Path, change) -> None:
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def test_a_run_of_another_version_stays(study, old):
    """Its key was made with another format version, so that it does not follow from its record."""
    run = first(study, "evaluate", seed=0)
    record = json.loads((old[run.id] / RECORD).read_text())
    key = run_key(run.config.FORMAT - 1, record["config"], record["upstream"])
    strange = Path("results/smoke/runs/evaluate", key, "0")
    shutil.copytree(old[run.id], strange)
    write_json(strange / RECORD, record | {"id": f"evaluate/{key}", "key": key})
    said = list(migrate(Path("results/smoke")))
    assert said[0] == f"{strange}: not moved, because its key does not follow from its record, perhaps because it is of another version"
    assert (strange / RECORD).is_file() and moved(study) == set(study.runs)


def test_a_phase_that_there_is_no_more_stays(study, old):
    strange = Path("results/smoke/runs/distil_everything/0123456789abcdef/0")
    shutil.copytree(old[first(study, "evaluate").id], strange)
    said = list(migrate(Path("results/smoke")))
    assert said[0] == f"{strange}: not moved, because its phase no longer exists"
    assert (strange / RECORD).is_file()


@pytest.mark.parametrize("done", [0, 1, 7, 20])
def test_an_interrupted_move_goes_on(study, old, monkeypatch, done):
    """Whatever the instant, a run is whole in its old folder until it is whole in its new one."""
    from m2mkd.study import migrate as module

    publish, calls = module.publish, []

    def dies(source, target):
        if len(calls) == done:
            raise KeyboardInterrupt
        calls.append(target)
        publish(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(module, "publish", dies)
        with pytest.raises(KeyboardInterrupt):
            list(migrate(Path("results/smoke")))
    assert all((old[run_id] / RECORD).is_file() for run_id in set(study.runs) - moved(study))
    said = list(migrate(Path("results/smoke")))
    assert "stays" not in "".join(said)
    assert moved(study) == set(study.runs) and surplus(study) == []


@pytest.mark.parametrize("done", [0, 1, 12])
def test_a_kill_while_old_folders_are_removed_loses_nothing(study, old, monkeypatch, done):
    remove, calls = shutil.rmtree, []

    def dies(folder, **options):
        if len(calls) == done:
            raise KeyboardInterrupt
        calls.append(folder)
        remove(folder, **options)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", dies)
        with pytest.raises(KeyboardInterrupt):
            list(migrate(Path("results/smoke")))
    left = len(study.runs) - done
    assert list(migrate(Path("results/smoke"))) == [f"{left} of {left} finished runs were moved to their new keys"]
    assert moved(study) == set(study.runs) and surplus(study) == []


def test_weights_are_what_they_were(study, old):
    import torch

    run = first(study, "split_teacher")
    save_weights(old[run.id], {"w": torch.arange(3.0)}, "split_teacher/before")
    edit(old[run.id] / RECORD, lambda record: record["outputs"].update({WEIGHTS: sha256(old[run.id] / WEIGHTS)}))
    list(migrate(Path("results/smoke")))
    assert torch.equal(load_weights(Path(study.folder(run.id)))["w"], torch.arange(3.0))


def test_unfinished_work_and_the_tracking_store_are_spoken_of(study, old):
    work = Path("results/smoke/work/train_student/0123456789abcdef/0")
    work.mkdir(parents=True)
    Path("results/mlflow.db").touch()
    said = list(migrate(Path("results/smoke")))
    assert said[1:] == [
        f"1 unfinished runs, such as {work.parent}, cannot be identified, and are trained again",
        "results/mlflow.db: also has the old keys; to keep only the new ones, remove it, and the workflow fills it again",
    ]
    assert work.is_dir()


def test_where_there_is_nothing_it_says_so(tmp_path):
    assert list(migrate(tmp_path / "results/none")) == [f"{tmp_path}/results/none: has no runs of the old layout"]
