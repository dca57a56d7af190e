"""What runs come from beside their configuration: what is recorded of it, and what is done about a difference."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from m2mkd.data.manifest import manifest_digest
from m2mkd.errors import InputError
from m2mkd.study.code import code_of
from m2mkd.study.record import finished_runs
from m2mkd.training import job as jobs
from m2mkd.training.job import Outcome
from m2mkd.training.origins import CODE, SEVERAL
from tests.conftest import ROOT
from tests.fabricated import edit_record, pretend_data, publish
from tests.tiny import of_phase, smoke
from tests.wiring import Pretended, plan_of


@pytest.fixture
def study(tmp_path, monkeypatch):
    """The smoke study, in a folder of its own."""
    (tmp_path / "config").symlink_to(ROOT / "config")
    monkeypatch.chdir(tmp_path)
    return smoke()


@pytest.fixture
def computed(study):
    """An evaluation, with the student below it, what was computed of it, and what computes it."""
    run = of_phase(study, "evaluate")[0]
    publish(study, study.runs[run.parents[0]], 0.5)
    pretend_data(run.config)
    pretended = Pretended(lambda job: Outcome({"top1": len(pretended.seen)}))
    return run, pretended.seen, lambda rule="named": execute(study, run, pretended, rule)


def execute(study, run, pretended, rule) -> None:
    jobs.execute([replace(plan_of(study, run)[0], code=rule)], lambda: None, print, code=pretended)


def record_of(study, run) -> dict:
    return json.loads(Path(study.folder(run.id), "run.json").read_text())


def test_a_record_says_code_data_and_inputs(study, computed):
    run, _, compute = computed
    compute()
    record = record_of(study, run)
    assert record["code"] == code_of("evaluate")
    assert record["data"] == {str(data): json.loads(Path(data.manifest).read_text())["digest"] for data in run.config.data_sets}
    assert record["inputs"].keys() == set(run.parents)
    found = finished_runs(study)[run.id]
    assert found.changed == () and not found.is_outdated


def test_what_other_code_computed_stays_unless_that_is_asked_for(study, computed):
    run, seen, compute = computed
    compute()
    edit_record(study, run, lambda record: record["code"].update({"m2mkd.models.vit": "0" * 16}))
    compute()
    assert len(seen) == 1 and finished_runs(study)[run.id].changed == ("m2mkd.models.vit",)
    compute("strict")
    assert len(seen) == 2 and not finished_runs(study)[run.id].is_outdated
    compute("strict")
    assert len(seen) == 2


def test_a_run_that_does_not_say_which_code_is_whole_even_then(study, computed):
    run, seen, compute = computed
    compute()
    edit_record(study, run, lambda record: [record.pop("code"), record.pop("inputs")])
    compute("strict")
    assert len(seen) == 1 and finished_runs(study)[run.id].changed is None


def test_a_run_below_that_was_computed_anew_with_another_result_is_noticed(study, computed):
    run, seen, compute = computed
    compute()
    publish(study, study.runs[run.parents[0]], 0.5)
    assert finished_runs(study)[run.id].replaced == ()
    publish(study, study.runs[run.parents[0]], 0.6)
    assert finished_runs(study)[run.id].replaced == run.parents
    compute("strict")
    assert len(seen) == 2 and finished_runs(study)[run.id].replaced == ()


def begun_by_other_code(study, run) -> Path:
    work = plan_of(study, run)[0].work
    work.mkdir(parents=True)
    (work / CODE).write_text(json.dumps(code_of("evaluate") | {"m2mkd.models.vit": "0" * 16}))
    (work / "checkpoint").write_text("of that code")
    return work


def test_a_run_that_two_versions_computed_in_turn_says_so(study, computed):
    run, _, compute = computed
    begun_by_other_code(study, run)
    compute()
    assert record_of(study, run)["code"]["m2mkd.models.vit"] == SEVERAL
    assert finished_runs(study)[run.id].changed == ("m2mkd.models.vit",)


def test_strictly_it_is_begun_anew(study, computed):
    run, *_ = computed
    work = begun_by_other_code(study, run)
    there = []
    pretended = Pretended(lambda job: Outcome({"seen": there.append((work / "checkpoint").exists())}))
    execute(study, run, pretended, "strict")
    assert there == [False] and record_of(study, run)["code"] == code_of("evaluate")


def test_a_set_that_was_exchanged_since_the_run_below_is_refused(study, computed):
    run, seen, compute = computed
    manifest = Path(run.config.data.manifest)
    content = {name: value for name, value in json.loads(manifest.read_text()).items() if name != "digest"} | {
        "classes": list("9876543210")
    }
    manifest.unlink()
    manifest.write_text(json.dumps(content | {"digest": manifest_digest(content)}))
    with pytest.raises(InputError, match=rf"{run.parents[0]}: used digits@32 with digest \w+\.\.\., but now it is .*data verify digits"):
        compute()
    assert seen == []
