"""Jobs: outputs appear whole, interruptions cost nothing, orphans are ended."""

import json
import os
import subprocess
import sys
import time

import psutil
import pytest
import torch

from m2mkd.errors import InputError
from m2mkd.models.weights import load_modules, load_weights, save_weights, stage_state, stages_of
from m2mkd.processes import exclusive
from m2mkd.training.job import Outcome, record_outputs
from tests.conftest import ROOT
from tests.fabricated import pretend_data
from tests.tiny import of_phase, smoke
from tests.wiring import Pretended, execute


@pytest.fixture
def study(tmp_path, monkeypatch):
    """The smoke study with three seeds, in a folder of its own."""
    (tmp_path / "config").symlink_to(ROOT / "config")
    monkeypatch.chdir(tmp_path)
    return smoke(seeds=3)


def measured_student(study):
    """The runs that measure one student, one a seed."""
    row = next(row for row in study.rows if row.experiment == "vmoe_base")
    return [study.runs[run_id] for run_id in row.measured]


def files_in(folder):
    kept = [path for path in folder.rglob("*") if path.parent.suffix == ".done"]  # until the workflow has taken notice
    return [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock" and path not in kept]


def test_outputs_of_all_runs_of_a_job_appear_together(study, tmp_path):
    seen = []

    def compute(job):
        seen.append((job.seed, [folder.parent.name for folder in job.upstream["student"]], list((tmp_path / "results").rglob("runs"))))
        return Outcome({"top1": 0.5 + job.seed})

    runs = measured_student(study)
    execute(study, *runs, code=Pretended(compute))
    assert seen == [(seed, ["train_student"], []) for seed in range(3)]
    assert len({run.key for run in runs}) == 3
    for run in runs:
        folder = tmp_path / study.folder(run.id)
        assert json.loads((folder / "metrics.json").read_text()) == {"top1": 0.5 + run.seed}
        record = json.loads((folder / "run.json").read_text())
        assert (record["id"], record["seed"]) == (run.id, run.seed)
        assert record["config"] == run.config.model_dump(mode="json")
    assert files_in(tmp_path / study.root / "work") == []


def test_a_failure_publishes_nothing_and_keeps_finished_seeds(study, tmp_path):
    computed = []

    def compute(job):
        if job.seed == 2 and len(computed) == 2:
            computed.append("failed")
            raise RuntimeError("out of luck")
        computed.append(job.seed)
        return Outcome({"top1": 0.0})

    runs = measured_student(study)
    with pytest.raises(RuntimeError):
        execute(study, *runs, code=Pretended(compute))
    assert not any((tmp_path / study.folder(run.id)).exists() for run in runs)
    execute(study, *runs, code=Pretended(compute))
    assert computed == [0, 1, "failed", 2]


def test_a_shared_run_has_no_seed(study, tmp_path):
    (run,) = of_phase(study, "evaluate_teacher")
    execute(study, run, code=Pretended(lambda job: Outcome({"seed": job.seed})))
    folder = tmp_path / study.folder(run.id)
    record = json.loads((folder / "run.json").read_text())
    assert record["seed"] is None and "seed" not in record["config"]
    assert json.loads((folder / "metrics.json").read_text()) == {"seed": 0}


@pytest.fixture
def modules(study):
    """Two modules of one student with three seeds each, and what computes them."""
    runs = of_phase(study, "distill_module")
    alike = runs[0].config.model_dump(exclude={"seed", "index"})
    chosen = [run for run in runs if run.config.model_dump(exclude={"seed", "index"}) == alike and run.config.index < 2]
    code = Pretended(lambda job: trained(job, Outcome({"module": job.config.index}, {"w": torch.tensor(job.config.index)})))
    return sorted(chosen, key=lambda run: (run.seed, run.config.index)), code


def seen(code):
    """Module and seed of what was computed together."""
    return [[(job.config.index, job.seed) for job in group] for group in code.seen]


def trained(job, outcome):
    job.work.mkdir(parents=True, exist_ok=True)
    (job.work / "metrics.jsonl").write_text("")
    return outcome


def test_modules_of_one_seed_are_computed_together(study, modules, tmp_path):
    runs, code = modules
    execute(study, *runs, code=code)
    assert seen(code) == [[(0, seed), (1, seed)] for seed in range(3)]
    for run in runs:
        folder = tmp_path / study.folder(run.id)
        assert json.loads((folder / "metrics.json").read_text()) == {"module": run.config.index}
        assert load_weights(folder)["w"] == run.config.index
    assert files_in(tmp_path / study.root / "work") == []


def test_a_finished_module_is_not_computed_again_with_the_others(study, modules, tmp_path):
    runs, code = modules
    finished = next(run for run in runs if (run.config.index, run.seed) == (0, 1))
    folder = tmp_path / study.root / "work" / finished.id
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("")
    pretend_data(finished.config)
    record_outputs(finished, folder, Outcome({"module": "before"}, {"w": torch.tensor(7)}), time.time())
    execute(study, *runs, code=code)
    assert seen(code) == [[(0, 0), (1, 0)], [(1, 1)], [(0, 2), (1, 2)]]
    assert load_weights(tmp_path / study.folder(finished.id))["w"] == 7


def test_a_job_shared_by_several_counts_its_time_once(study, modules, tmp_path):
    runs, code = modules
    compute, code.compute = code.compute, lambda job: time.sleep(0.3) or compute(job)
    began = time.monotonic()
    execute(study, *runs[:2], code=code)
    took = time.monotonic() - began
    first, second = (json.loads((tmp_path / study.folder(run.id) / "run.json").read_text())["provenance"]["seconds"] for run in runs[:2])
    assert first == pytest.approx(second, rel=0.1) and 0.6 <= first + second <= took


def test_other_runs_are_not_computed_in_one_job(study, modules):
    runs, code = modules
    first = runs[0]
    distilled, evaluations = of_phase(study, "distill_module"), of_phase(study, "evaluate")
    other = next(run for run in distilled if run.config.student != first.config.student)
    another = next(run for run in evaluations if run.config.student != evaluations[0].config.student)
    for together in ([first, other], [first, first], [evaluations[0], another], [first, evaluations[0]]):
        with pytest.raises(InputError, match="differ in more than the seed or module of one student; compute each") as refused:
            execute(study, *together, code=code)
        assert "\n" not in str(refused.value)
    assert seen(code) == []


def test_weights_are_checked_against_their_record(study, tmp_path):
    (run,) = of_phase(study, "pretrain_meta")
    execute(study, run, code=Pretended(lambda job: trained(job, Outcome({}, {"w": torch.arange(6.0)}))))
    folder = tmp_path / study.folder(run.id)
    assert torch.equal(load_weights(folder)["w"], torch.arange(6.0))
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"model.safetensors: sha256 is .* remove .* and run the workflow again"):
        load_weights(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="cannot be read"):
        load_weights(folder)


def test_a_module_in_anothers_place_is_refused(study, modules, tmp_path):
    runs, code = modules
    execute(study, *runs, code=code)
    folders = [tmp_path / study.folder(run.id) for run in runs[:2]]
    assert {index: state["w"].item() for index, state in load_modules(folders, range(2)).items()} == {0: 0, 1: 1}
    with pytest.raises(InputError, match="holds module 1, but module 0 is expected"):
        load_modules(folders[::-1], range(2))


def test_stages_are_cut_by_name(tmp_path):
    state = {"stages.0.w": 1, "stages.1.w": 2, "stages.10.w": 3}
    assert stage_state(state, 1) == {"w": 2}
    assert stages_of(state) == {0: {"w": 1}, 1: {"w": 2}, 10: {"w": 3}}


def test_numpy_and_torch_weights_are_the_same_file(tmp_path):
    import numpy as np

    save_weights(tmp_path / "torch", {"w": torch.arange(6.0).reshape(2, 3).T}, "phase/key")
    save_weights(tmp_path / "numpy", {"w": np.arange(6, dtype=np.float32).reshape(2, 3).T}, "phase/key")
    assert (tmp_path / "torch/model.safetensors").read_bytes() == (tmp_path / "numpy/model.safetensors").read_bytes()


HOLD = """
import sys, time
from pathlib import Path
from m2mkd.processes import exclusive
with exclusive(Path(sys.argv[1]), "parent.py", print) as note_child:
    import subprocess
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    note_child(child.pid)
    Path(sys.argv[2]).write_text(str(child.pid))
    time.sleep(300)
"""


def wait_for(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def held(tmp_path):
    """A process that holds some work, started by one whose name is parent.py; gives both, and the id of the holder's child."""
    (tmp_path / "hold.py").write_text(HOLD)
    parent = tmp_path / "parent.py"
    arguments = [sys.executable, str(tmp_path / "hold.py"), str(tmp_path / "work"), str(tmp_path / "child")]
    parent.write_text(f"import subprocess; subprocess.run({arguments!r})")
    process = subprocess.Popen([sys.executable, str(parent)])
    wait_for((tmp_path / "child").exists)
    (holder,) = psutil.Process(process.pid).children()
    yield process, holder, int((tmp_path / "child").read_text())
    for victim in (process.pid, holder.pid, int((tmp_path / "child").read_text())):
        if psutil.pid_exists(victim):
            os.kill(victim, 9)
    process.wait()


def test_an_orphan_and_its_child_are_ended(tmp_path, held):
    process, holder, child = held
    process.kill()
    process.wait()
    assert holder.is_running()
    said = []
    with exclusive(tmp_path / "work", "parent.py", said.append):
        assert not holder.is_running() or holder.status() == psutil.STATUS_ZOMBIE
        assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE
    assert any("left over from an interrupted command" in line for line in said)


def test_the_child_of_a_killed_holder_is_ended(tmp_path, held):
    _, holder, child = held
    holder.kill()
    holder.wait()
    assert psutil.pid_exists(child)
    with exclusive(tmp_path / "work", "parent.py", print):
        wait_for(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


def test_a_holder_whose_starter_lives_is_waited_for(tmp_path, held):
    _, holder, _ = held
    code = "import sys; from pathlib import Path; from m2mkd.processes import exclusive\n"
    code += "with exclusive(Path(sys.argv[1]), 'parent.py', print): print('mine')"
    waiting = subprocess.Popen([sys.executable, "-uc", code, str(tmp_path / "work")], stdout=subprocess.PIPE, text=True)
    assert f"waiting for process {holder.pid}" in waiting.stdout.readline()
    assert holder.is_running()
    assert waiting.poll() is None
    holder.kill()
    rest = waiting.communicate(timeout=30)[0]
    assert rest.splitlines()[-1] == "mine"


def test_a_leftover_of_an_interrupted_removal_is_no_obstacle(study, tmp_path):
    run = of_phase(study, "evaluate")[0]
    leftover = tmp_path / study.root / "work/evaluate" / f".{run.key}.done"
    leftover.mkdir(parents=True)
    (leftover / "checkpoint.pt").write_text("old")
    execute(study, run, code=Pretended(lambda job: Outcome({"top1": 0.0})))
    assert (tmp_path / study.folder(run.id) / "run.json").is_file()
    assert sorted(path.name for path in leftover.iterdir()) == ["metrics.json", "run.json"]


def test_another_file_system_gets_a_copy(monkeypatch, tmp_path):
    from m2mkd import files

    def refuse(source, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(files.os, "link", refuse)
    (tmp_path / "source").write_text("content")
    files.publish(tmp_path / "source", tmp_path / "runs" / "target")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["target"]
    assert (tmp_path / "runs" / "target").read_text() == "content"


def test_keyed_files_get_one_time_so_that_none_is_newer(study, tmp_path):
    from m2mkd.study.state import normalise_mtimes

    run = next(run for run in study.runs.values() if run.phase == "pretrain_meta")
    written = [tmp_path / output for output in study.outputs(run)[:2]]
    for path in written:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        time.sleep(0.01)
    normalise_mtimes(study)
    assert written[0].stat().st_mtime == written[1].stat().st_mtime
