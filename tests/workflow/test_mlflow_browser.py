"""MLflow's pages as ``m2mkd mlflow-ui`` opens them, in a real browser: the rows by accuracy, one row, two compared, and their curves."""

from pathlib import Path

import psutil
import pytest

from docs import mlflow_compare
from m2mkd.results.judge.results import Results
from m2mkd.results.tables.compile import compile_tables
from m2mkd.tracking.mlflow_export import sync
from tests.fabricated import by_seed, finish, plan
from tests.workflow.servers import mlflow_ui

EXPERIMENTS = ["vmoe_base/end_to_end", "vmoe_base/m2mkd"]
NAMES = ("end to end, V-MoE", "m2mKD, V-MoE")
PLOTTED = "[...document.querySelectorAll('.js-plotly-plot')].flatMap(plot => plot.data.map(line => [line.name, line.x, line.y]))"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """What ``m2mkd mlflow-ui`` prints of a study of three seeds, in which m2mKD is better."""
    root = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        study = plan(root, "small", EXPERIMENTS)
        better = {run_id for row in study.rows if row.variant == "m2mkd" for run_id in (*row.trained, *row.measured)}
        finish(study, lambda run, seed: by_seed(run, seed) - (0.0 if run.id in better else 0.1))
        compile_tables(Results.read(study))
        sync(Results.read(study))
    with mlflow_ui(root) as lines:
        yield lines


def test_the_four_clicks(served, browser):
    rows, curves = (mlflow_compare.address(served, name, "small") for name in (mlflow_compare.ROWS, mlflow_compare.CURVES))
    page = browser.new_page(viewport=mlflow_compare.VIEW)
    mlflow_compare.open_rows(page, rows)
    text = page.locator("body").inner_text()
    # The third is the row of the teacher, which has no accuracy in this study.
    assert "3 matching runs" in text and "Model training" in text and "IID top-1" in text and "digits@32" in text
    # Means of 0.93 and 0.83 over three seeds, with Student's t of two degrees of freedom; the better one first.
    assert text.index("93.00 ± 8.96 %") < text.index("83.00 ± 8.96 %") and text.index(NAMES[1]) < text.index(NAMES[0])
    mlflow_compare.open_row(page, NAMES[1])
    text = page.locator("body").inner_text()
    assert "mean over 3 seeds. Small study on handwritten digits (scale small)." in text and "ImageNet" not in text
    page.go_back()
    page.get_by_text("matching runs").wait_for(timeout=mlflow_compare.PATIENCE)
    mlflow_compare.open_comparison(page, NAMES)
    mlflow_compare.open_curves(page, curves, NAMES)
    drawn = {name: (epochs, values) for name, epochs, values in page.evaluate(PLOTTED)}
    page.close()
    # Means over seeds of 0.90, 0.92 and 0.97, in the second epoch a hundredth better; end to end a tenth worse.
    assert drawn[NAMES[1]] == ([2, 3], pytest.approx([0.94, 0.93]))
    assert drawn[NAMES[0]] == ([2, 3], pytest.approx([0.84, 0.83]))
    own = {process.pid for process in psutil.Process().children(recursive=True)}
    # The iterator leaves out what ends meanwhile, and has no command of one that has ended and was not waited for.
    commands = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]) if process.pid in own]
    assert any("mlflow" in command for command in commands) and not any("huey" in command for command in commands)


def test_the_pictures_are_there_and_their_command_is_said():
    docs = Path(mlflow_compare.__file__).parent
    page = (docs / "how-to/tracking.md").read_text()
    assert "python docs/mlflow_compare.py" in page
    for name in ("mlflow-runs.png", "mlflow-row.png", "mlflow-compare.png"):
        content = (docs / name).read_bytes()
        assert f"](../{name})" in page and content.startswith(b"\x89PNG") and len(content) < 100_000
