"""The report in a real browser: what the DOM holds after it is parsed, and that nothing outside the file is asked for."""

import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from m2mkd.results.report import write_report
from tests.fabricated import finish, plan

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
VOID = {"meta", "br", "img", "hr", "input", "link"}


@pytest.fixture(scope="module")
def chromium() -> str:
    found = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
    if found is None:
        message = "no chromium; on Debian: apt-get install -y chromium"
        if os.environ.get("M2MKD_REQUIRE") == "all":
            pytest.fail(message)
        pytest.skip(message)
    return found


class Dom(HTMLParser):
    """The serialised DOM: rows of each table, paths of each drawing, and every reference."""

    def __init__(self, text: str):
        super().__init__()
        self.rows: dict[str, int] = {}
        self.cells: dict[str, set[int]] = {}
        self.paths: list[int] = []
        self.references: list[tuple[str, str]] = []
        self.stack: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.references += [(tag, attributes[name] or "") for name in ("src", "href", "xlink:href", "data", "srcset") if name in attributes]
        if tag not in VOID:
            self.stack.append((tag, attributes.get("id")))
        open_tags = [name for name, _ in self.stack]
        table = next((name for kind, name in self.stack if kind == "table"), None)
        if tag == "tr" and "tbody" in open_tags and table:
            self.rows[table] = self.rows.get(table, 0) + 1
        if tag == "svg":
            self.paths.append(0)
        if tag == "path" and "svg" in open_tags:
            self.paths[-1] += 1

    def handle_endtag(self, tag):
        while self.stack and self.stack.pop()[0] != tag:
            pass


@pytest.fixture(scope="module")
def page(tmp_path_factory, chromium):
    root = tmp_path_factory.mktemp("browser")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        experiments = [
            "teacher_deit_large",
            "vmoe_base/end_to_end",
            "vmoe_base/m2mkd",
            "nac_tiny_imagenet_scale_free",
            "fewshot_cifar100_vmoe",
        ]
        study = plan(root, "smoke", experiments, replicates=3)
        finish(study)
        write_report(study)
    report: Path = root / "results/smoke/report.html"
    log = root / "network.json"
    command = [chromium, *FLAGS, f"--user-data-dir={root / 'profile'}", f"--log-net-log={log}", "--dump-dom", report.as_uri()]
    dumped = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return Dom(dumped.stdout), dumped.stdout, log.read_text()


def test_tables_have_their_rows(page):
    rows = page[0].rows
    expected = {"table-teacher": 1, "table-vmoe": 2, "table-nac": 2, "table-ood": 4, "table-renditions": 4, "table-fewshot": 2}
    assert {name: rows[name] for name in expected} == expected
    assert rows["table-cost"] == 9  # eight phases that measure, and their sum
    assert rows["table-commands"] == 4
    assert all(rows.values())


def test_every_figure_is_drawn(page):
    dom, text, _ = page
    # bars IID and OOD, the teacher, modules of both families, training of both students
    assert len(dom.paths) == text.count("<figure") == 7
    assert min(dom.paths) > 20


def test_it_is_parsed_as_it_was_meant(page):
    assert page[1].count("</section>") == 7
    assert re.search(r"<caption>Top-1 accuracy in percent", page[1])


def test_nothing_outside_is_asked_for(page):
    dom, _, log = page
    assert {tag for tag, reference in dom.references if reference.startswith("http")} <= {"a"}
    assert all(reference.startswith("#") for tag, reference in dom.references if tag != "a")
    assert "arxiv.org" not in log
