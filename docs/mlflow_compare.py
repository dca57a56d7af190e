"""Pictures of MLflow's pages: the rows of a study by accuracy, one row, and two of them with their learning curves.

``python docs/mlflow_compare.py`` runs ``m2mkd mlflow-ui`` in the project, opens the pages whose addresses that prints in Chromium, and
writes ``docs/mlflow-runs.png``, ``docs/mlflow-row.png`` and ``docs/mlflow-compare.png``. It needs the extra ``dev`` and Chromium (Debian:
``apt-get install chromium``).
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

PATIENCE = 120_000
"""Milliseconds until a page must have drawn what is wanted."""
VIEW = {"width": 1400, "height": 720}
ROWS, CURVES = "rows by accuracy", "end to end against m2mKD over epochs"
"""Names of the addresses that ``m2mkd mlflow-ui`` prints."""
COLOURS = 64
"""Colours of a picture, which keep its file small."""


def address(lines: Sequence[str], name: str, scale: str) -> str:
    """Address of that name among the lines that ``m2mkd mlflow-ui`` printed of a scale."""
    own = lines[lines.index(f"m2mkd/{scale}") :]
    return next(line for line in own if line.strip().startswith(name)).split()[-1]


def open_rows(page: Page, rows: str) -> None:
    """First click: the address of the rows. MLflow's assistant and a banner, which a new browser shows too, are closed."""
    page.goto(rows)
    page.get_by_text("matching runs").wait_for(timeout=PATIENCE)
    for name in ("Close", "Hide banner"):
        button = page.get_by_role("button", name=name, exact=True)
        button.click(timeout=PATIENCE)
        button.wait_for(state="hidden", timeout=PATIENCE)


def open_row(page: Page, name: str) -> None:
    """Second click: the name of a row, which leads to its description, numbers and data."""
    page.get_by_role("link", name=name, exact=True).click()
    page.get_by_text("Description").first.wait_for(timeout=PATIENCE)
    page.get_by_text("final/iid_top1").first.wait_for(timeout=PATIENCE)


def open_comparison(page: Page, names: Sequence[str]) -> None:
    """Third click: two rows ticked in the list, and "Compare"; shows their parameters and numbers side by side."""
    for name in names:
        page.locator(".ag-row", has=page.get_by_role("link", name=name, exact=True)).locator("input[type=checkbox]").first.check()
    page.get_by_role("button", name="Compare").click()
    page.get_by_text(f"Comparing {len(names)} Runs").first.wait_for(timeout=PATIENCE)


def open_curves(page: Page, curves: str, names: Sequence[str], metric: str = "val_top1") -> None:
    """Fourth click: the address of the learning curves of two rows, by epoch."""
    page.goto(curves)
    for name in names:
        page.get_by_text(f"{name} ({metric})").first.wait_for(timeout=PATIENCE)


def take(page: Page, path: Path) -> None:
    """Write a picture of the page as it is when it has settled."""
    page.wait_for_timeout(1500)
    page.screenshot(path=path)
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(COLOURS).save(path, optimize=True)


def main(
    scale: Annotated[str, typer.Option(help="Scale whose study is shown.")] = "small",
    first: Annotated[str, typer.Option(help="A row of its tables,")] = "end to end, V-MoE",
    second: Annotated[str, typer.Option(help="and the one that it is compared with.")] = "m2mKD, V-MoE",
    project: Annotated[Path, typer.Option(help="Folder of the project.")] = ROOT,
    folder: Annotated[Path, typer.Option(help="Folder of the pictures.")] = ROOT / "docs",
) -> None:
    """Write the pictures."""
    from tests.workflow.servers import mlflow_ui

    with mlflow_ui(project) as lines, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_page(viewport=VIEW)
        open_rows(page, address(lines, ROWS, scale))
        take(page, folder / "mlflow-runs.png")
        open_row(page, second)
        take(page, folder / "mlflow-row.png")
        page.go_back()
        page.get_by_text("matching runs").wait_for(timeout=PATIENCE)
        open_comparison(page, (first, second))
        open_curves(page, address(lines, CURVES, scale), (first, second))
        take(page, folder / "mlflow-compare.png")
        browser.close()


if __name__ == "__main__":
    typer.run(main)
