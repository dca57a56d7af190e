"""Citations of the specification lead to a section, its findings are those of docs/deviations.md, and links of pages lead somewhere."""

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGES = ROOT / "docs/specification"
NAMES = ("nac", "vmoe", "detection", "detection-small", "paper")
FOLDERS = ("m2mkd", "config", "workflow", "tests", "docs", "benchmarks")

NUMBER = r"\d+(?:\.\d+)*(?![\d%]|\.\d|-\d)"
CITATION = re.compile(
    rf"(?<![\w/-])({'|'.join(sorted(NAMES, key=len, reverse=True))})\.md`?(?:\]\([^)]*\))?,?"
    rf"((?: sections?| findings?)?\s{NUMBER}(?:(?:,| and| to|, finding|, section|, findings)\s{NUMBER})*)"
)
OWN_FINDINGS = {"N53", "N54"}
"""Found by this project, not in the reading of the release."""
LARGEST = {"N": ("nac", "16"), "V": ("vmoe", "7"), "D": ("detection", "6")}


def page(name: str) -> str:
    return (PAGES / f"{name}.md").read_text()


def section(name: str, number: str) -> str | None:
    """The heading of that number and what is below it, its subsections included."""
    text = page(name)
    start = re.search(rf"^(#+) {re.escape(number)}\.? .*$", text, re.MULTILINE)
    if start is None:
        return None
    end = re.search(rf"^#{{1,{len(start[1])}}} ", text[start.end() :], re.MULTILINE)
    return text[start.start() : start.end() + end.start() if end else None]


def has_item(text: str, number: str) -> bool:
    """Whether a list or a table has an item of that number, be it ``3.``, ``**N3**`` or ``| N3 |``."""
    return re.search(rf"^(?:\d+\. |[-*|] *)?[*`]*[NVD]?{number}[*`]*(?: \*)?(?:[.:)]| *\|)", text, re.MULTILINE) is not None


def leads_somewhere(name: str, number: str, finding: bool = False) -> bool:
    if finding:
        home = next(place for page_name, place in LARGEST.values() if page_name == name)
        return has_item(section(name, home) or "", number)
    return section(name, number) is not None


def cited(text: str) -> list[tuple[str, str, bool]]:
    """Page, number, and whether it is a finding's."""
    found = []
    for name, numbers in CITATION.findall(text):
        finding = False
        for word in re.findall(rf"findings?|{NUMBER}", numbers):
            if word.startswith("finding"):
                finding = True
            else:
                found.append((name, word, finding))
    return found


def texts() -> dict[str, str]:
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file() and path != Path(__file__)]
    wanted = [path for path in files if path.suffix in (".py", ".md", ".yaml", ".yml", ".json", ".smk", ".tsv") or path.name == "Snakefile"]
    return {str(path.relative_to(ROOT)): path.read_text() for path in wanted}


def anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    titles = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title) for title in titles]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_citations_are_understood():
    assert cited("(specification vmoe.md 1.2 to 1.5; nac.md 13)") == [("vmoe", "1.2", False), ("vmoe", "1.5", False), ("nac", "13", False)]
    assert cited("detection.md 3.3, 3.4).") == [("detection", "3.3", False), ("detection", "3.4", False)]
    assert cited("vmoe.md 7, finding 15") == [("vmoe", "7", False), ("vmoe", "15", True)]
    assert cited("`nac.md` finding 18, `vmoe.md` section 8.") == [("nac", "18", True), ("vmoe", "8", False)]
    assert cited("docs/how-to/detection.md 3, (detection.md)") == []


@pytest.mark.parametrize("name", NAMES)
def test_every_page_is_there(name):
    assert page(name).startswith("# ")
    assert f"({name}.md)" in page("README")


def test_every_citation_leads_to_a_section():
    found = [(path, *one) for path, text in texts().items() for one in cited(text)]
    assert len(found) > 100
    assert [one for one in found if not leads_somewhere(*one[1:])] == []


def test_a_wrong_citation_is_seen():
    assert not leads_somewhere("detection", "3.9")
    assert not leads_somewhere("detection", "11")
    assert not leads_somewhere("detection", "26", finding=True)
    assert leads_somewhere("detection", "3.6") and leads_somewhere("detection", "25", finding=True)


def test_rows_of_deviations_are_findings_of_the_specification():
    text = (ROOT / "docs/deviations.md").read_text().split("## Documents and installation")[0]
    rows = set(re.findall(r"^\| ([NVD]\d+) \|", text, re.MULTILINE)) - OWN_FINDINGS
    assert len(rows) == 35 + 52 + 25
    assert [row for row in rows if not leads_somewhere(LARGEST[row[0]][0], row[1:], finding=True)] == []


def test_links_lead_somewhere():
    broken = []
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
        for link in re.findall(r"\]\(([^)\s]+)\)", prose):
            if re.match(r"[a-z]+:", link):
                continue
            target, _, anchor = link.partition("#")
            there = (path.parent / target).resolve() if target else path
            if not there.exists() or (anchor and there.suffix == ".md" and anchor not in anchors(there.read_text())):
                broken.append((path.name, link))
    assert broken == []
