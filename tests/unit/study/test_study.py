"""Keys, seeds and the graph of runs."""

import pytest

from m2mkd.config import load
from m2mkd.errors import InputError
from m2mkd.seeds import derive_seed
from m2mkd.study.phase import PHASES
from tests.tiny import smoke


def ids(planned, *phases):
    return {run.id for run in planned.runs.values() if not phases or run.phase in phases}


def test_the_same_configuration_gives_the_same_keys():
    assert ids(smoke()) == ids(smoke())
    assert smoke().key == smoke().key


def test_a_changed_recipe_changes_its_runs_and_what_builds_on_them_only():
    before, after = smoke(), smoke(recipes={name: {"lr": 0.01} for name in ("distill_module", "distill_nac_module")})
    for phase in ("pretrain_meta", "incubate_module", "assemble_teacher", "split_teacher", "evaluate_teacher"):
        assert ids(before, phase) == ids(after, phase)
    assert not ids(before, "distill_module") & ids(after, "distill_module")
    scratch = {run.id for run in before.runs.values() if run.phase == "train_student" and run.config.init == "scratch"}
    assert ids(before, "train_student") & ids(after, "train_student") == scratch
    assert before.key != after.key


def test_a_format_version_changes_the_keys(monkeypatch):
    before = smoke()
    monkeypatch.setattr(PHASES["pretrain_meta"], "FORMAT", PHASES["pretrain_meta"].FORMAT + 1)
    assert not ids(before, "pretrain_meta", "assemble_teacher") & ids(smoke(), "pretrain_meta", "assemble_teacher")


def test_a_data_set_digest_changes_the_keys(monkeypatch):
    before, registry = smoke(), load.datasets()
    files = {name: tuple(file.model_copy(update={"sha256": "0" * 64}) for file in entry.files) for name, entry in registry.items()}
    changed = {name: entry.model_copy(update={"files": files[name]}) for name, entry in registry.items()}
    monkeypatch.setattr(load, "datasets", lambda: changed)
    assert not ids(before) & ids(smoke())


def test_only_switches_that_matter_enter_a_key():
    both = smoke(profiles=["released", "corrected"])
    by_phase = {phase: [run for run in both.runs.values() if run.phase == phase] for phase in PHASES}
    plain = [run for run in by_phase["train_student"] if run.config.student.family == "vmoe" and run.config.init == "scratch"]
    assert all(("kl_norm" in run.config.compat) == (run.config.distillation is not None) for run in plain)
    assert "graph_fit_cut" not in plain[0].config.compat
    assert all(run.config.compat == {} for run in by_phase["split_teacher"])


def test_the_same_teacher_serves_both_families():
    planned = smoke()
    used = {planned.runs[run.upstream["meta"][0]].id for run in planned.runs.values() if run.phase == "distill_module"}
    assert len(used) == 1


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
