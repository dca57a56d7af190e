"""Which labelled images the arms of a comparison have seen, in all their phases."""

import pytest

from m2mkd.study.labelled import UNKNOWN, Labelled, label_sets, labelled_by_row, unequal_labels
from tests.tiny import smoke

ARMS = ("vmoe_base/end_to_end", "vmoe_base/pure_kd", "vmoe_base/m2mkd")


def rows(study):
    return {row.variant: row for row in study.rows}


def test_every_phase_of_an_arm_counts_the_teachers_too():
    recipes = {
        "distill_module": {"epochs": 3, "batch_size": 200, "train_share": 0.5},
        "vmoe_finetune": {"epochs": 2, "warmup_epochs": 0, "batch_size": 100, "train_share": 1.0},
    }
    study = smoke("vmoe_base/m2mkd", profiles=["corrected"], recipes=recipes)
    seen = labelled_by_row(study, study.rows[0])
    teacher, modules, student = ([one for one in seen if one.learner == learner] for learner in ("teacher", "modules", "student"))
    assert len(teacher) == 6  # meta model, four modules, assembly
    assert modules == 4 * [Labelled("modules", "digits", 0.5, 719, 3 * 600)]
    assert student == [Labelled("student", "digits", 1.0, 1438, 2 * 1400)]


@pytest.mark.parametrize("phase", ["distill_module", "vmoe_finetune", "pretrain_meta"])
def test_an_arm_with_more_images_in_any_phase_is_unequal(phase):
    phases = ("pretrain_meta", "incubate_module", "assemble_teacher", "distill_module", "vmoe_finetune", "vmoe_end_to_end_100")
    shares = {name: {"train_share": 0.5} for name in phases}
    equal = smoke(*ARMS, profiles=["corrected"], recipes=shares)
    assert unequal_labels(equal, equal.rows) == ""
    unequal = smoke(*ARMS, profiles=["corrected"], recipes=shares | {phase: {"train_share": 1.0}})
    found = unequal_labels(unequal, unequal.rows)
    assert "end_to_end 50 % of digits" in found
    assert "m2mkd 100 % of digits" in found


def test_a_larger_share_holds_a_smaller_one():
    some = [Labelled("student", "digits", share, None, None) for share in (0.3, 1.0, 0.5)]
    assert label_sets(some) == {"digits": 1.0}


def test_what_imported_weights_learned_from_is_unknown(tmp_path):
    assert label_sets([Labelled("student", UNKNOWN, 1.0, None, None)]) == {UNKNOWN: 1.0}
