"""The end of a learning curve that a job is writing."""

import json

import pytest

from m2mkd.progress.curve import TAIL_BYTES, Curve, measured_in_words


@pytest.fixture
def log(tmp_path):
    return tmp_path / "metrics.jsonl"


def write(log, *lines: dict, end: str = "") -> None:
    log.write_text("".join(json.dumps(line) + "\n" for line in lines) + end)


def test_before_the_first_line_nothing_is_said(log):
    curve = Curve(log, 12, None)
    curve.read()
    assert (curve.position, curve.measured, curve.share) == ("", "", 0.0)


def test_the_last_line_is_shown_with_the_last_accuracy(log):
    write(log, {"epoch": 2, "step": 16, "loss": 1.5, "val_top1": 0.5}, {"epoch": 3, "step": 24, "loss": 0.8125}, end='{"epoch": 4, "lo')
    curve = Curve(log, 12, None)
    curve.read()
    assert (curve.position, curve.measured, curve.share) == ("epoch 3/12", "loss 0.812  top-1 50.0 %", 0.25)


def test_a_long_log_is_read_from_its_end_and_new_lines_are_seen(log):
    lines = [{"epoch": number, "loss": 2.0} for number in range(TAIL_BYTES // 16)]
    write(log, *lines)
    curve = Curve(log, len(lines), None)
    curve.read()
    assert curve.position == f"epoch {len(lines) - 1}/{len(lines)}"
    write(log, *lines, {"epoch": len(lines), "loss": 1.0})
    curve.read()
    assert curve.measured == "loss 1" and curve.share == 1.0


def test_detectors_are_counted_in_updates(log):
    write(log, {"epoch": 1, "step": 1500, "loss": 3.0, "val_boxes_AP": 0.123})
    curve = Curve(log, None, 6000)
    curve.read()
    assert (curve.position, curve.measured, curve.share) == ("update 1,500/6,000", "loss 3  box AP 12.3", 0.25)


@pytest.mark.parametrize("text", ["", "not JSON\n", "[1]\n", '{"epoch": 1', "\x00\n"])
def test_a_damaged_log_is_left_to_its_job(log, text):
    log.write_text(text)
    curve = Curve(log, 12, None)
    curve.read()
    assert (curve.position, curve.measured) == ("", "")


def test_what_was_not_measured_is_left_out():
    assert measured_in_words({"val_top1": None, "loss": 0.5}) == "loss 0.5"
