"""How many seeds a student has, who asks for more, and that none of the others notices."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from m2mkd.cli import app
from m2mkd.config import load
from m2mkd.errors import InputError
from m2mkd.study.study import Study
from tests.fabricated import finish, plan
from tests.tiny import smoke

STUDENT = "vmoe_base/end_to_end"


def seeds_in(study: Study, experiment: str, variant: str) -> list[int | None]:
    """Seeds of the runs that one row is measured by."""
    (row,) = [row for row in study.rows if (row.experiment, row.variant) == (experiment, variant)]
    return [study.runs[run_id].seed for run_id in row.measured]


@pytest.mark.parametrize(("seeds", "wanted"), [(1, [0]), (3, [0, 1, 2]), ([7], [7]), ([9, 2, 0], [0, 2, 9])])
def test_seeds_are_a_number_or_a_list(seeds, wanted):
    study = smoke(STUDENT, seeds=seeds)
    assert seeds_in(study, "vmoe_base", "end_to_end") == wanted
    assert list(study.seeds) == wanted


def test_an_experiment_asks_for_more_than_its_scale():
    study = smoke("vmoe_base", seeds=2, experiment_changes={"vmoe_base": {"seeds": [1, 5]}})
    assert all(seeds_in(study, "vmoe_base", variant) == [0, 1, 5] for variant in ("end_to_end", "pure_kd", "m2mkd"))


def test_a_variant_asks_for_more_than_its_experiment():
    changes = {"vmoe_base": {"seeds": 3, "variants": {"pure_kd": {"seeds": [8]}}}}
    study = smoke("vmoe_base", seeds=1, experiment_changes=changes)
    assert seeds_in(study, "vmoe_base", "pure_kd") == [0, 1, 2, 8]
    assert seeds_in(study, "vmoe_base", "end_to_end") == [0, 1, 2]


def test_a_transfer_asks_for_more_and_its_students_are_trained_for_it():
    study = smoke(STUDENT, "fewshot_cifar100_vmoe", seeds=1, experiment_changes={"fewshot_cifar100_vmoe": {"seeds": 3}})
    assert seeds_in(study, "vmoe_base", "end_to_end") == [0]
    assert seeds_in(study, "fewshot_cifar100_vmoe", STUDENT) == [0, 1, 2]
    probes = [run for run in study.runs.values() if run.phase == "train_probe"]
    assert all(study.runs[run.upstream["student"][0]].seed == run.seed for run in probes)


def test_an_ablation_asks_for_more():
    study = smoke("ablation_alpha", seeds=1, experiment_changes={"ablation_alpha": {"seeds": [4]}})
    assert {tuple(study.runs[run_id].seed for run_id in row.measured) for row in study.rows} == {(0, 4)}


NO_SEEDS = [0, -1, 100_000_000, [], [0, 0], [-1], [1.5], True, "three"]


@pytest.mark.parametrize(
    ("seeds", "where"),
    [(None, "scale"), *((seeds, where) for seeds in NO_SEEDS for where in ("scale", "experiment", "variant"))],
)
def test_what_are_no_seeds_is_one_line(seeds, where):
    change = {"seeds": seeds}
    if where == "variant":
        change = {"variants": {"end_to_end": change}}
    overrides = change if where == "scale" else {"experiment_changes": {"vmoe_base": change}}
    with pytest.raises(InputError, match=r"seeds: give a number of seeds from 1 to 1000, or a list of different whole numbers") as refused:
        smoke(STUDENT, **overrides)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("old", "new"), [("replicates", "seeds"), ("replicates_per_job", "seeds_per_job")])
def test_fields_of_earlier_versions_are_pointed_to_todays(old, new):
    with pytest.raises(InputError, match=rf"{old} is not a known field; did you mean '{new}'\?"):
        smoke(STUDENT, **{old: 3})


def test_keys_do_not_depend_on_how_many_seeds_there_are_nor_on_the_layout_of_jobs():
    three, five = smoke("vmoe_base", seeds=3), smoke("vmoe_base", seeds=5)
    assert set(three.runs) < set(five.runs)
    assert {five.runs[run_id].seed for run_id in set(five.runs) - set(three.runs)} == {3, 4}
    for seeds_per_job, modules_per_job in ((1, 1), (2, 3), (5, 4)):
        laid_out = smoke("vmoe_base", seeds=3, seeds_per_job=seeds_per_job, modules_per_job=modules_per_job)
        assert list(laid_out.runs) == list(three.runs) and laid_out.key == three.key


def test_two_more_seeds_cost_two_more_seeds(tmp_path, monkeypatch):
    """A finished study of three seeds, asked for five: what its list says is still to do."""
    monkeypatch.chdir(tmp_path)
    selected = ["vmoe_base", "fewshot_cifar100_vmoe"]
    finish(plan(tmp_path, "smoke", selected, seeds=3))
    overrides = ["--set", "seeds=5", "--set", "seeds_per_job=5", "--set", "modules_per_job=4"]
    done = CliRunner().invoke(app, ["runs", "list", "--json", "--scale", "smoke", *selected, *overrides])
    assert done.exit_code == 0, done.output
    runs = json.loads(done.stdout)
    assert all({"phase", "key", "seed", "done"} <= run.keys() and len(run["key"]) == 16 for run in runs)
    assert all(run["done"] == (run["seed"] in (None, 0, 1, 2)) for run in runs)
    new = [run for run in runs if not run["done"]]
    assert sorted({run["seed"] for run in new}) == [3, 4]
    old = [run for run in runs if run["seed"] == 0]
    assert sorted(run["phase"] for run in new) == sorted(2 * [run["phase"] for run in old])
    assert not Path("results/smoke/plan").exists()


def test_a_teacher_has_no_seed():
    study = smoke(seeds=3)
    assert {run.phase for run in study.runs.values() if run.seed is None} == {
        *("pretrain_meta", "incubate_module", "assemble_teacher", "split_teacher", "evaluate_teacher", "measure_hybrid")
    }
    assert load.scale("smoke", {}).seeds == 1
