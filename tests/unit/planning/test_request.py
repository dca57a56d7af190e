"""What jobs ask of a machine follows from what they are planned to cost."""

import pytest

from m2mkd.config import load
from m2mkd.errors import InputError
from m2mkd.planning import Assumptions, cost_of
from m2mkd.planning.request import SLOWER, START, Terms, request_of, requests
from m2mkd.study.plan import build_study

GIVEN = Assumptions("h100", gpus=1)
TERMS = Terms(GIVEN, longest=1000)


@pytest.fixture(scope="module")
def study():
    return build_study(load.settings({"scale": "paper", "experiments": ["vmoe_base/m2mkd"]}))


@pytest.fixture(scope="module")
def asked(study):
    return requests(study, TERMS)


def test_every_job_asks_for_what_it_is_planned_to_take(study, asked):
    costs = cost_of(study, GIVEN)
    assert asked.keys() == {run.id for run in study.runs.values() if run.phase != "split_teacher"}
    for id_, request in asked.items():
        cost = costs[id_]
        assert START + SLOWER * 60 * cost.gpu_hours <= request["runtime"] <= START + SLOWER * 60 * cost.gpu_hours + 1
        assert request["mem_mb"] * 1e6 > cost.checkpoint
        assert request["gpu"] == 1


def test_a_slower_gpu_gets_more_time_and_a_limit_is_kept(study, asked):
    slower = requests(study, Terms(Assumptions("a100", mfu=0.2, gpus=1), longest=1000))
    trained = [run.id for run in study.runs.values() if run.phase == "train_student"]
    assert trained
    assert all(slower[id_]["runtime"] > 2 * asked[id_]["runtime"] for id_ in trained)
    assert max(request["runtime"] for request in requests(study, Terms(GIVEN, longest=2)).values()) == 120


def test_modules_that_share_a_job_ask_for_the_time_of_all():
    shared = build_study(load.settings({"scale": "paper", "experiments": ["vmoe_base/m2mkd"], "overrides": {"modules_per_job": 3}}))
    costs = cost_of(shared, GIVEN)
    modules = [run for run in shared.runs.values() if run.phase == "distill_module"][:3]
    together = request_of(modules, costs, TERMS)
    alone = [request_of([run], costs, TERMS) for run in modules]
    assert abs(together.runtime - (sum(request.runtime for request in alone) - 2 * START)) <= 3
    assert max(request.mem_mb for request in alone) < together.mem_mb < sum(request.mem_mb for request in alone)
    groups = {key: request for key, request in requests(shared, TERMS).items() if "/" not in key}
    assert len(groups) > 1
    assert max(group["runtime"] for group in groups.values()) > max(request.runtime for request in alone)


def test_a_training_on_several_gpus_asks_for_a_process_on_each_and_takes_less_time(study, asked):
    several = requests(study, Terms(Assumptions("h100", gpus=4), workers=3, longest=1000))
    threads = study.scale.threads
    for id_, one in asked.items():
        more = several[id_]
        if id_.partition("/")[0] in ("pretrain_meta", "incubate_module", "assemble_teacher", "distill_module", "train_student"):
            assert (more["gpu"], more["threads"]) == (4, 4 * (threads + 3))
            assert abs((one["runtime"] - START) / 4 - (more["runtime"] - START)) <= 1
            assert more["mem_mb"] > one["mem_mb"]
        else:
            assert more["gpu"] == one["gpu"] == 1
            assert more["threads"] == threads + 3


def test_a_limit_below_the_start_is_refused():
    with pytest.raises(InputError, match=r"--longest 0.5"):
        Terms(GIVEN, longest=0.5)
