"""Time left: from planned costs and measured seconds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2mkd.progress.durations import exact_duration, rough_duration
from m2mkd.progress.estimate import expected_seconds, longest_chain, time_left


def test_runs_take_their_cost_at_the_speed_of_their_phase():
    costs = {"a/1": 1.0, "a/2": 3.0, "b/1": 2.0, "b/2": 4.0, "c/1": 10.0}
    found = expected_seconds(costs, {"a/1": 10.0, "b/1": 40.0})
    assert found == pytest.approx({"a/1": 10, "a/2": 30, "b/1": 40, "b/2": 80, "c/1": 10 * 50 / 3})


def test_runs_without_a_planned_cost_take_the_mean_of_their_phase():
    costs = {"a/1": 1.0, "copy/1": 0.0, "copy/2": 0.0, "other/1": 0.0}
    found = expected_seconds(costs, {"a/1": 10.0, "copy/1": 4.0})
    assert found == {"a/1": 10.0, "copy/1": 4.0, "copy/2": 4.0, "other/1": 0.0}


def test_the_longest_chain_bounds_what_more_machines_can_do():
    seconds, parents = {"a": 10.0, "b": 20.0, "c": 5.0, "d": 1.0}, {"a": (), "b": ("a",), "c": (), "d": ("b", "c")}
    assert longest_chain(seconds, parents) == 31
    assert time_left(seconds, parents, rate=1.0) == 36
    assert time_left(seconds, parents, rate=100.0) == 31
    assert time_left(seconds, parents, rate=0.5) == 72


@given(st.lists(st.floats(0, 1e6), max_size=6), st.floats(0.05, 100))
def test_time_left_is_never_less_than_one_run_and_nothing_once_all_are_done(seconds, rate):
    runs = {str(number): value for number, value in enumerate(seconds)}
    left = time_left(runs, dict.fromkeys(runs, ()), rate)
    assert left >= max(seconds, default=0.0)
    assert time_left(dict.fromkeys(runs, 0.0), dict.fromkeys(runs, ()), rate) == 0


@pytest.mark.parametrize(
    ("seconds", "measured", "estimated"),
    [
        (3.4, "3 s", "10 s"),
        (42, "42 s", "40 s"),
        (185, "3:05", "3 min"),
        (59.7, "1:00", "1 min"),
        (7385, "2:03:05", "2 h 0 min"),
        (12345, "3:25:45", "3 h 20 min"),
        (50000, "13:53:20", "14 h"),
        (360000, "100:00:00", "4 d 4 h"),
    ],
)
def test_durations_in_words(seconds, measured, estimated):
    assert (exact_duration(seconds), rough_duration(seconds)) == (measured, estimated)
