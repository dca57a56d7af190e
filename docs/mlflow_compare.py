"""Pictures of MLflow's pages: the rows of a study's tables, and two of them compared with their learning curves.

``python docs/mlflow_compare.py --scale small`` starts ``mlflow server`` on ``results/mlflow.db``, opens its pages in Chromium and writes
``docs/mlflow-runs.png`` and ``docs/mlflow-compare.png``. It needs the extra ``dev`` and Chromium (Debian: ``apt-get install chromium``).
"""

import json
import shutil
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

PATIENCE = 120_000
"""Milliseconds until a page must have drawn what is wanted."""
ROWS = "tags.level = 'row'"
VIEW = {"width": 1280, "height": 720}
Runs = dict[str, str]
"""Ids of runs by name."""


def rows_of(uri: str, scale: str) -> tuple[str, Runs]:
    """Id of a scale's experiment, and the rows of its tables."""

    def ask(what: str, question: dict[str, Any]) -> dict[str, Any]:
        address = urllib.request.Request(
            f"{uri}/api/2.0/mlflow/{what}", json.dumps(question).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(address) as answer:
            return json.load(answer)

    found = ask("experiments/search", {"filter": f"name = 'm2mkd/{scale}'", "max_results": 1})
    experiment = found["experiments"][0]["experiment_id"]
    runs = ask("runs/search", {"experiment_ids": [experiment], "filter": ROWS})["runs"]
    return experiment, {run["info"]["run_name"]: run["info"]["run_id"] for run in runs}


def open_rows(page: Page, uri: str, experiment: str) -> None:
    """The list of runs, cut to the rows of the tables."""
    page.goto(f"{uri}/#/experiments/{experiment}/runs?searchFilter={quote(ROWS)}")
    page.get_by_text("matching runs").wait_for(timeout=PATIENCE)
    page.get_by_role("button", name="Toggle sidebar").first.click()
    _tidy(page)


def open_comparison(page: Page, uri: str, experiment: str, runs: Runs) -> None:
    """MLflow's comparison of some runs: parameters, metrics and tags side by side."""
    page.goto(f"{uri}/#/compare-runs?{_chosen(experiment, runs)}")
    page.get_by_text(f"Comparing {len(runs)} Runs").first.wait_for(timeout=PATIENCE)
    page.locator("a[href*='/metric?']").first.wait_for(timeout=PATIENCE)


def open_curves(page: Page, uri: str, experiment: str, runs: Runs, metric: str) -> None:
    """The page that a metric's link in the comparison leads to, by epoch; the links themselves are drawn only when they are scrolled to."""
    names = f"metric={quote(json.dumps(metric))}&plot_metric_keys={quote(json.dumps([metric]))}"
    page.goto(f"{uri}/#/metric?{_chosen(experiment, runs)}&{names}&x_axis=step")
    for name in runs:
        page.get_by_text(f"{name} ({metric})").first.wait_for(timeout=PATIENCE)
    _tidy(page)


def _chosen(experiment: str, runs: Runs) -> str:
    return f"runs={quote(json.dumps(list(runs.values())))}&experiments={quote(json.dumps([experiment]))}"


def _tidy(page: Page) -> None:
    """Close what lies over the runs, and let the page settle."""
    for button in page.get_by_role("button", name="Close").all()[:1]:
        button.click()
    page.wait_for_timeout(1500)


def main(
    scale: Annotated[str, typer.Option(help="Scale whose study is shown.")] = "small",
    first: Annotated[str, typer.Option(help="A row of its tables,")] = "vmoe_base/end_to_end",
    second: Annotated[str, typer.Option(help="and the one that it is compared with.")] = "vmoe_base/m2mkd",
    metric: Annotated[str, typer.Option(help="Of the learning curves.")] = "val_top1",
    folder: Annotated[Path, typer.Option(help="Where the pictures go.")] = ROOT / "docs",
) -> None:
    """Write the pictures."""
    from tests.workflow.servers import mlflow_server

    with tempfile.TemporaryDirectory() as work, mlflow_server(Path(work), f"sqlite:///{Path('results/mlflow.db').resolve()}") as server:
        experiment, rows = rows_of(server.uri, scale)
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-dev-shm-usage"])
            page = browser.new_page(viewport=VIEW)
            open_rows(page, server.uri, experiment)
            page.screenshot(path=folder / "mlflow-runs.png")
            compared = {name: rows[name] for name in (first, second)}
            open_comparison(page, server.uri, experiment, compared)
            open_curves(page, server.uri, experiment, compared, metric)
            page.screenshot(path=folder / "mlflow-compare.png")
            browser.close()


if __name__ == "__main__":
    typer.run(main)
