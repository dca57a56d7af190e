"""The arm that is trained end to end with the compute of m2mKD has that compute."""

import pytest

from m2mkd.config import load
from m2mkd.planning.cost import cost_of
from m2mkd.study.plan import build_study


@pytest.mark.parametrize("scale", ["small", "paper"])
def test_end_to_end_takes_what_modules_and_fine_tuning_take_and_at_most_an_epoch_more(scale):
    names = ["vmoe_base/m2mkd", "equal_compute_vmoe/end_to_end"]
    study = build_study(load.settings({"scale": scale, "experiments": names, "overrides": {"profiles": ["corrected"], "seeds": 1}}))
    costs = cost_of(study)

    def hours(row):
        own = [run_id for run_id in study.with_upstream(row.trained) if not study.runs[run_id].config.of_teacher]
        return sum(costs[run_id].training_hours for run_id in own)

    m2mkd, equal = map(hours, study.rows)
    epochs = study.runs[study.rows[1].trained[0]].config.recipe.epochs
    assert m2mkd <= equal <= m2mkd + 1.01 * equal / epochs
