"""Figures of how students use their parts, in the report and alone."""

import re

import pytest

from m2mkd.results.judge.results import Results
from m2mkd.results.report.graph_figures import diagnosis_figure, series_figure
from m2mkd.results.report.svg import inline_svg
from m2mkd.results.report.write import write_report
from m2mkd.study.phases import Evaluate
from tests import fabricated


def nac_diagnosis(scale=1.0):
    layers = [
        {"name": name, "entropy": [scale, 2 * scale], "effective_senders": {"mean": 5 * scale, "quantiles": [1, 3, 5, 7, 9]}}
        for name in ("read_in", "propagators.0", "propagators.1", "read_out")
    ]
    graph = {"density": 0.5 * scale, "input_density": 0.9, "clustering": 0.25, "mean_degree": 1.0, "bandwidths": [1.0, 1.0]}
    return {"images": 32, "layers": layers, "mediator_share": [0.1, 0.6, 0.3], "output_weights": [1.0], "graph": graph}


def vmoe_diagnosis(first=0.5):
    tokens = {"tokens": [first, 0.9 - first, 0.1], "router_entropy": 0.8, "dropped": 0.0}
    return {"images": 32, "layers": [{"name": f"stages.{index}.blocks.0.mlp", **tokens} for index in (0, 1)]}


def diagnosed(config, top1):
    metrics = fabricated.measured(config, top1)
    if isinstance(config, Evaluate):
        metrics["diagnostics"] = nac_diagnosis(top1) if config.student.family == "nac" else vmoe_diagnosis(top1 - 0.4)
    return metrics


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["vmoe_base/end_to_end", "vmoe_base/m2mkd", "nac_tiny_imagenet_scale_free", "ood_tiny_imagenet_r"]
    return fabricated.plan(tmp_path, "smoke", names, seeds=2)


def test_the_report_has_one_figure_a_student(study, tmp_path):
    fabricated.finish(study, metrics=diagnosed)
    write_report(Results.read(study))
    text = (tmp_path / "results/smoke/report.html").read_text()
    figures = re.findall(r'<figure id="figure-(parts-[^"]+)"', text)
    students = {name for name in figures if "vmoe_base" in name or "scale_free" in name}
    assert {"parts-vmoe_base-corrected", "parts-nac_tiny_imagenet_scale_free-corrected"} <= students
    assert len(figures) == len(set(figures))
    label = re.search(r'aria-label="(Use of parts by layer, vmoe_base[^"]*)"', text)[1]
    # Seeds 0.90 and 0.92 give a largest share of 0.50 and 0.52.
    assert "m2mKD: largest share of one expert 51%, 51%" in label
    label = re.search(r'aria-label="(Use of parts by layer, nac_tiny_imagenet_scale_free[^"]*)"', text)[1]
    # Means 4.5 and 4.6.
    assert re.search(r"m2mKD: effective senders (4\.5|4\.6), \1, \1, \1", label)
    graphs = text.partition('id="table-graphs"')[2].partition("</table>")[0]
    # Densities 0.45 and 0.46: mean 0.455, and half a width of t(0.975, 1) * 0.005 = 0.0635.
    assert graphs.count(">0.455 ± 0.064</a>") == 2 and "scale free" in graphs


def test_without_diagnostics_there_is_no_section(study, tmp_path):
    fabricated.finish(study)
    write_report(Results.read(study))
    text = (tmp_path / "results/smoke/report.html").read_text()
    assert "parts" not in re.findall(r'id="([^"]*)"', text) and 'href="#parts"' not in text


@pytest.mark.parametrize(("make", "panels"), [(nac_diagnosis, 3), (vmoe_diagnosis, 2)])
def test_a_diagnosis_alone(make, panels):
    figure = diagnosis_figure({"m2mkd": [make(), make(0.6)], "end_to_end": [make()]})
    assert len(figure.axes) == panels
    text = inline_svg(figure, "parts", "what it shows")
    assert len(text) < 100_000 and "<image" not in text


def test_senders_are_means_over_seeds_and_mediators_are_ranked():
    senders, _, mediators = diagnosis_figure({"seed 0": [nac_diagnosis(1.0), nac_diagnosis(2.0)]}).axes
    assert senders.lines[0].get_ydata().tolist() == [7.5] * 4
    assert [label.get_text() for label in senders.get_xticklabels()] == ["read-in", "0", "1", "read-out"]
    assert mediators.lines[0].get_ydata().tolist() == pytest.approx([1.8, 0.9, 0.3])


def test_experts_are_dots_over_an_even_share():
    tokens, router = diagnosis_figure({"m2mkd": [vmoe_diagnosis()]}).axes
    assert sorted(tokens.collections[0].get_offsets()[:, 1]) == pytest.approx([0.3, 1.2, 1.5])
    assert router.lines[0].get_ydata().tolist() == [0.8, 0.8]


def test_series_have_a_panel_a_number_and_a_line_a_layer():
    curves = [{"epoch": epoch, "loss": 1.0, "a/entropy": 0.5 * epoch, "b/entropy": 1.0, "a/effective_senders": 3.0} for epoch in (1, 2)]
    figure = series_figure([*curves, {"epoch": 3, "loss": 1.0}])
    assert [axes.get_ylabel() for axes in figure.axes] == ["entropy", "effective senders"]
    assert figure.axes[0].lines[0].get_ydata().tolist() == [0.5, 1.0]
    assert series_figure([{"epoch": 1, "loss": 1.0}]) is None
