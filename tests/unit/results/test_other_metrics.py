"""Metrics as functions of kept logits: ours give what was measured, those of others a table, and runs without logits stay whole."""

import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from m2mkd.data.stream import EvalBatch
from m2mkd.errors import InputError
from m2mkd.evaluation.accuracy import measure
from m2mkd.evaluation.logits import KeptLogits, Recorder, read_logits
from m2mkd.evaluation.metrics import METRIC_GROUP, metric_named, value_of
from m2mkd.plugins import BUILT_IN
from m2mkd.results.judge.results import Results
from m2mkd.results.read.verify import verify_runs
from m2mkd.results.tables.compile import compiled
from m2mkd.results.tables.other_metrics import other_metrics_table
from m2mkd.study.phase import LOGITS
from m2mkd.study.phases import Evaluate
from m2mkd.study.whole import is_whole
from m2mkd.training.job import Outcome, record_outputs
from tests.fabricated import by_seed, computed_here, finish, measured, plan
from tests.packages import installed


@pytest.fixture(scope="module")
def installed_example(tmp_path_factory):
    """Folder that pip has installed the example in."""
    return installed("m2mkd-nll-brier", tmp_path_factory.mktemp("plugins"))


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = plan(tmp_path, "small", ["vmoe_base/m2mkd", "vmoe_base/end_to_end"])
    finish(made)
    return made


def kept_by(seed: int) -> KeptLogits:
    generator = torch.Generator().manual_seed(seed)
    return KeptLogits(torch.randn(40, 10, generator=generator), torch.randint(10, (40,), generator=generator))


def keep_logits(study, variant: str) -> list:
    """Publish the evaluations of a variant again, as a version that keeps logits does."""
    (row,) = (row for row in study.rows if row.variant == variant)
    runs = [study.runs[run_id] for run_id in row.measured]
    for run in runs:
        outcome = Outcome(measured(run.config, by_seed(run, run.seed)), logits=kept_by(run.seed))
        record_outputs(run, Path(study.folder(run.id)), outcome, time.time() - 5, computed=computed_here())
    return runs


def test_ours_give_from_kept_logits_what_the_evaluation_has_measured():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 7)).eval()
    images, labels = torch.randn(50, 3, 2, 2), torch.randint(7, (50,))
    batches = [
        EvalBatch(images[start : start + 16], labels[start : start + 16], torch.arange(50)[start : start + 16])
        for start in range(0, 50, 16)
    ]
    recorder = Recorder(network)
    found = measure(recorder, batches, torch.device("cpu"))
    assert measure(network, batches, torch.device("cpu")).summary() == found.summary(), "remembering changes nothing"
    path = Path("kept.safetensors").absolute()
    recorder.kept(found.labels).save(path)
    kept = read_logits(path.read_bytes(), "here")
    path.unlink()
    assert kept.logits.shape == (50, 7) and torch.equal(kept.labels, labels)
    assert {name: value_of(name, *kept) for name in BUILT_IN[METRIC_GROUP]} == {
        name: found.summary()[name] for name in BUILT_IN[METRIC_GROUP]
    }


def test_a_metric_of_another_package_is_computed_from_finished_runs_and_changes_nothing_else(study, installed_example, monkeypatch):
    runs = keep_logits(study, "m2mkd")
    before = compiled(Results.read(study))
    assert "tables/other_metrics.csv" not in before
    keys = [run.id for run in study.runs.values()]
    monkeypatch.syspath_prepend(installed_example)
    results = Results.read(study)
    table = other_metrics_table(results, results.students)
    lines = table.exact.set_index(["variant", "metric"])
    assert list(lines.index) == [("m2mkd", "brier"), ("m2mkd", "nll")]
    expected = [F.cross_entropy(*kept_by(run.seed)).item() for run in runs]
    assert lines.loc[("m2mkd", "nll"), "mean"] == pytest.approx(sum(expected) / len(expected))
    assert lines.loc[("m2mkd", "nll"), "n"] == len(runs) and lines.loc[("m2mkd", "nll"), "distribution"] == "m2mkd-nll-brier"
    hot = [((k.logits.softmax(1) - F.one_hot(k.labels, 10)) ** 2).sum(1).mean().item() for k in (kept_by(run.seed) for run in runs)]
    assert lines.loc[("m2mkd", "brier"), "mean"] == pytest.approx(sum(hot) / len(hot))
    assert f"{len(runs)} of {len(runs)} runs of vmoe_base/end_to_end" in table.caption and "evaluate them again" in table.caption
    after = compiled(results)
    assert {name: text for name, text in after.items() if "other_metrics" not in name} == before
    assert b"nll" in after["tables/other_metrics.html"] and keys == [run.id for run in study.runs.values()]


def test_a_run_without_logits_is_whole_and_one_whose_logits_are_damaged_is_told(study, installed_example, monkeypatch):
    (run, *_) = keep_logits(study, "m2mkd")
    others = [other for other in study.runs.values() if isinstance(other.config, Evaluate) and other not in keep_logits(study, "m2mkd")]
    path = Path(study.folder(run.id), LOGITS)
    assert all(is_whole(Path(study.folder(other.id)), other) for other in (run, *others))
    assert any("are finished and complete" in line for line in verify_runs(study))
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match=r"logits\.safetensors: sha256 is .* without which the run is as whole"):
        list(verify_runs(study))
    path.unlink()
    assert is_whole(Path(study.folder(run.id)), run) and any("complete" in line for line in verify_runs(study))
    monkeypatch.syspath_prepend(installed_example)
    results = Results.read(study)
    table = other_metrics_table(results, results.students)
    assert "1 of 3 runs of vmoe_base/m2mkd" in table.caption and table.exact["n"].tolist() == [2, 2]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise OSError('no')", "cannot be loaded (OSError: no)"),
        ("made = 3", "is not a function of logits and labels"),
        ("def made(logits, labels): return logits.absent", "fails (AttributeError"),
        ("def made(logits, labels): return float('nan')", "gives nan, but a finite number is needed"),
    ],
)
def test_a_broken_metric_is_one_remark_and_leaves_the_others(study, installed_example, tmp_path, monkeypatch, source, reason):
    keep_logits(study, "m2mkd")
    folder = tmp_path / "broken"
    (folder / "broken-1.0.dist-info").mkdir(parents=True)
    (folder / "broken-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (folder / "broken-1.0.dist-info/entry_points.txt").write_text(f"[{METRIC_GROUP}]\nmade = broken_metric:made\n")
    (folder / "broken_metric.py").write_text(source)
    monkeypatch.delitem(sys.modules, "broken_metric", raising=False)
    monkeypatch.syspath_prepend(installed_example)
    monkeypatch.syspath_prepend(folder)
    results = Results.read(study)
    table = other_metrics_table(results, results.students)
    assert reason in table.caption and table.exact["metric"].tolist() == ["brier", "nll"]


def test_what_holds_no_logits_is_one_line():
    with pytest.raises(InputError, match="here: does not hold logits and labels"):
        read_logits(b"text", "here")
    with pytest.raises(InputError, match="did you mean 'top1'"):
        metric_named("top_1")
