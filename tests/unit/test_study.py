"""Keys, seeds and the graph of runs."""

import itertools

import pytest

from m2mkd.config import load, runs
from m2mkd.errors import InputError
from m2mkd.seeds import derive_seed
from m2mkd.study.graph import as_graph, command_arguments
from m2mkd.study.phase import PHASES
from m2mkd.study.plan import build_study


def study(**overrides):
    return build_study(load.settings({"scale": "smoke", "overrides": overrides}))


def ids(planned, *phases):
    return {run.id for run in planned.runs.values() if not phases or run.phase in phases}


def test_the_same_configuration_gives_the_same_keys():
    assert ids(study()) == ids(study())
    assert study().key == study().key


def test_a_changed_recipe_changes_its_runs_and_what_builds_on_them_only():
    before, after = study(), study(recipes={"distill_module": {"lr": 0.01}})
    for phase in ("pretrain_meta", "incubate_module", "assemble_teacher", "split_teacher", "evaluate_teacher"):
        assert ids(before, phase) == ids(after, phase)
    assert not ids(before, "distill_module") & ids(after, "distill_module")
    scratch = {run.id for run in before.runs.values() if run.phase == "train_student" and run.config.init == "scratch"}
    assert ids(before, "train_student") & ids(after, "train_student") == scratch
    assert before.key != after.key


def test_a_format_version_changes_the_keys(monkeypatch):
    before = study()
    monkeypatch.setattr(PHASES["pretrain_meta"], "FORMAT", PHASES["pretrain_meta"].FORMAT + 1)
    assert not ids(before, "pretrain_meta", "assemble_teacher") & ids(study(), "pretrain_meta", "assemble_teacher")


def test_a_data_set_digest_changes_the_keys(monkeypatch):
    before, registry = study(), load.datasets()
    files = {name: tuple(file.model_copy(update={"sha256": "0" * 64}) for file in entry.files) for name, entry in registry.items()}
    changed = {name: entry.model_copy(update={"files": files[name]}) for name, entry in registry.items()}
    monkeypatch.setattr(load, "datasets", lambda: changed)
    assert not ids(before) & ids(study())


def test_only_switches_that_matter_enter_a_key():
    both = build_study(load.settings({"scale": "smoke", "overrides": {"profiles": ["released", "corrected"]}}))
    by_phase = {phase: [run for run in both.runs.values() if run.phase == phase] for phase in PHASES}
    plain = [run for run in by_phase["train_student"] if run.config.student.family == "vmoe" and run.config.init == "scratch"]
    assert all(("kl_norm" in run.config.compat) == (run.config.distillation is not None) for run in plain)
    assert "graph_fit_cut" not in plain[0].config.compat
    assert all(run.config.compat == {} for run in by_phase["split_teacher"])


def test_replicates_are_batched_and_share_the_teacher():
    planned = study(replicates=4, replicates_per_job=2)
    assert {run.config.replicates for run in planned.runs.values() if run.phase == "train_student"} == {(0, 1), (2, 3)}
    assert len(ids(planned, "assemble_teacher")) == 1
    more = study(replicates=6, replicates_per_job=2)
    assert ids(planned) < ids(more)


def test_the_same_teacher_serves_both_families():
    planned = study()
    used = {planned.runs[run.upstream["meta"][0]].id for run in planned.runs.values() if run.phase == "distill_module"}
    assert len(used) == 1


def test_arguments_reproduce_the_settings():
    import shlex

    settings = load.settings(
        {
            "scale": "smoke",
            "experiments": ["vmoe_base"],
            "overrides": {"recipes": {"distill_module": {"epochs": 3, "schedule": "constant"}}},
        }
    )
    words = shlex.split(command_arguments(settings))
    sets = [value for flag, value in itertools.pairwise(words) if flag == "--set"]
    assert load.parse_overrides(sets) == settings.overrides
    assert words[:4] == ["--scale", "smoke", "--experiment", "vmoe_base"]


def test_seeds_depend_on_every_name_and_on_their_order():
    names = ("data", "digits", "train_student", 0, 1)
    assert derive_seed(*names) == derive_seed(*names)
    assert (
        len(
            {
                derive_seed(*names),
                derive_seed(*names[::-1]),
                derive_seed(*names[:-1]),
                derive_seed("data", "digits", "train_student", 0, 11),
            }
        )
        == 4
    )
    assert derive_seed("a", "b") != derive_seed("ab")
    assert 0 <= derive_seed(*names) < 2**63


@pytest.mark.parametrize(
    ("assignment", "message"),
    [("epochs", "write dotted.field=value"), ("=3", "write dotted.field=value")],
)
def test_a_malformed_override_is_refused(assignment, message):
    with pytest.raises(InputError, match=message):
        load.parse_overrides([assignment])


# --- several modules in one job ---------------------------------------------------------------------------------------


def graph(planned):
    return as_graph(planned, load.settings({"scale": "smoke"}))


@pytest.fixture
def finished(monkeypatch):
    """Ids that count as finished."""
    done = set()
    monkeypatch.setattr(runs, "is_done", lambda planned, run: run.id in done)
    return done


def indices(planned, members):
    return [planned.runs[run_id].config.index for run_id in members]


def test_modules_per_job_changes_no_key_and_no_folder(finished):
    one, three = study(), study(modules_per_job=3)
    assert ids(one) == ids(three) and one.key == three.key
    assert graph(one)["runs"] == graph(three)["runs"]
    assert graph(one)["groups"] == {}


def test_modules_are_grouped_by_student_in_ascending_order(finished):
    planned = study(modules_per_job=3)
    groups = graph(planned)["groups"]
    assert [indices(planned, members) for members in groups.values()] == [[0, 1, 2], [0, 1, 2]]
    for first, members in groups.items():
        assert members[0] == f"distill_module/{first}"
        assert len({planned.runs[run_id].config.student.family for run_id in members}) == 1
    assert [len(members) for members in graph(study(modules_per_job=99))["groups"].values()] == [4, 4]


def test_replicates_and_profiles_are_not_grouped_together(finished):
    planned = study(modules_per_job=4, replicates=2, profiles=["released", "corrected"])
    groups = graph(planned)["groups"].values()
    assert len(groups) == 2 * 2 * 2
    for members in groups:
        assert len({planned.runs[run_id].config.replicates for run_id in members}) == 1
        assert indices(planned, members) == [0, 1, 2, 3]


def test_a_finished_module_leaves_its_group_and_the_others_stay(finished):
    planned = study(modules_per_job=2)
    groups = list(graph(planned)["groups"].values())
    finished.add(groups[0][1])
    assert list(graph(planned)["groups"].values()) == groups[1:]
