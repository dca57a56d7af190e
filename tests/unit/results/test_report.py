import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from m2mkd.config import load
from m2mkd.config.claims import load_claims
from m2mkd.data.contact_sheet import contact_sheet
from m2mkd.data.pack import open_pack
from m2mkd.data.prepare import prepare
from m2mkd.results.judge.results import Results
from m2mkd.results.read.collect import once_each
from m2mkd.results.report.result_tables import detail_tables, result_tables
from m2mkd.results.report.write import write_report
from m2mkd.study.lineage import anchor_of, student_of
from tests.fabricated import finish, plan

EXPERIMENTS = [
    *("teacher_deit_large", "vmoe_base/end_to_end", "vmoe_base/pure_kd", "vmoe_base/m2mkd", "nac_tiny_imagenet_scale_free"),
    *("nac_tiny_imagenet_ring_of_cliques", "ood_tiny_imagenet_r", "fewshot_cifar100_vmoe"),
]
TABLES = {
    *("published", "teacher", "hybrids", "vmoe", "nac", "labelled", "ood", "renditions", "fewshot"),
    *("cost", "data", "models", "training", "switches", "environment", "commands"),
}


class Page(HTMLParser):
    """What the page consists of."""

    def __init__(self, text: str):
        super().__init__()
        self.ids: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id" and value]

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        study = plan(root, "smoke", EXPERIMENTS, seeds=3)
        finish(study)
        write_report(Results.read(study))
        yield study, root, (root / "results/smoke/report.html").read_text()


def test_every_table_and_one_drawing_a_figure(report):
    study, _, text = report
    page = Page(text)
    # A row of a transfer experiment that has the runs of its student stands with it.
    behind = {f"{anchor_of(row)}-table" for row in once_each(study.rows)} | {"runs-teacher_deit_large-hybrids-corrected-table"}
    assert {table["id"] for table in page.all("table")} == {f"table-{name}" for name in TABLES | behind}
    figures = [figure["id"] for figure in page.all("figure")]
    assert {"figure-bars-iid", "figure-bars-ood", "figure-curves-vmoe_base-corrected"} <= set(figures)
    students = {student_of(study, row.experiment, row.variant)[0] for row in study.rows if "teacher" not in row.experiment}
    # two of bars, renditions, the teacher, the modules of both families (the priors share theirs), and each student's training
    assert len(figures) == len(page.all("svg")) == 2 + 1 + 1 + 2 + len(students)
    assert text.count("</svg>") == len(figures)
    commands = text.partition('id="table-commands"')[2].partition("</table>")[0]
    assert all(f"snakemake --cores all {row.experiment} --config scale=smoke" in commands for row in study.rows)


def test_it_needs_nothing_but_itself(report):
    page = Page(report[2])
    assert not {"link", "img", "iframe", "object"} & {tag for tag, _ in page.found}
    for tag, attributes in page.found:
        assert "src" not in attributes
        if tag != "a":
            assert not any((attributes.get(name) or "#").startswith("http") for name in ("href", "xlink:href"))
    assert not re.search(r"@import|url\((?!#)", report[2])


def test_ids_are_unique_and_links_arrive(report):
    page = Page(report[2])
    assert len(page.ids) == len(set(page.ids))
    targets = set(re.findall(r'(?:xlink:href|href)="#([^"]+)"', report[2])) | set(re.findall(r"url\(#([^)]+)\)", report[2]))
    assert targets <= set(page.ids)


def test_those_who_do_not_see_are_told(report):
    page = Page(report[2])
    labels = [drawing.get("aria-label") or "" for drawing in page.all("svg")]
    assert all(len(label) > 30 for label in labels) and all(drawing["role"] == "img" for drawing in page.all("svg"))
    assert "end to end 93.0, pure KD 93.0, m2mKD 93.0" in labels[0]
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(cell.get("scope") in ("col", "row") for cell in page.all("th"))


def test_every_claim_is_there_and_none_of_the_paper_beside_a_smoke_verdict(report):
    text = report[2]
    for claim in load_claims():
        assert f'<span id="claim-{claim.id}">' in text
    # Four priors in one line, with the four numbers that the paper has of them.
    assert "A NAC with the Scale-Free / Planted-Partition / Ring-of-Cliques / Erdos-Renyi prior, trained end to end, reaches" in text
    assert "60.76% / 60.71% / 60.54% / 60.33% on Tiny-ImageNet." in text
    sections = text.split("<section")[1:]
    passing, numbers = (
        {place for place, section in enumerate(sections) if re.search(wanted, section)} for wanted in ("smoke-pass", r"60\.76|5\.6%|82\.4%")
    )
    assert passing and numbers and not passing & numbers


def test_the_answer_comes_first(report):
    text = report[2]
    assert (
        text.index('<header id="answer">') < text.index("Scale smoke judges no claim here.") < text.index("<main>") < text.index("<table")
    )
    assert text.index('id="paper"') < text.index('id="verdicts"') < text.index('id="scope"')
    details = text.partition('id="paper"')[2].partition("</section>")[0]
    assert details.count("<details>") == 5 and "<details open" not in details  # four other scales, and the published accuracies


def test_sections_stand_in_the_order_of_a_reproducibility_report(report):
    titles = re.findall(r"<h2[^>]*>([^<]+)", report[2])
    order = [
        *("Verdicts", "Scope of reproducibility", "Methodology", "Results"),
        *("What was easy", "What was difficult", "Communication with the authors"),
    ]
    assert [title for title in titles if title in order] == order


def test_every_number_leads_to_its_runs_digest_and_command(report):
    study, _, text = report
    for row in study.rows:
        if row.experiment.startswith("vmoe"):
            cell = f'<a href="#{anchor_of(row)}">93.00 ± 8.96</a>'
            assert cell in text
        (home,) = [one for one in once_each(study.rows) if one.measured == row.measured]
        behind = text.partition(f'id="table-{anchor_of(home)}-table"')[2].partition("</table>")[0]
        assert f'id="{anchor_of(row)}"' in text
        for run_id in row.measured:
            assert run_id in behind and f"snakemake --cores all results/smoke/runs/{run_id}/metrics.json --config scale=smoke " in behind


def test_every_measured_cell_of_every_table_leads_to_its_runs(report):
    study, root, text = report
    page = Page(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        results = Results.read(study)
        tables = [*result_tables(results), *detail_tables(results)]
    numbers = 0
    for _, table in tables:
        measured = [column for column, name in enumerate(table.header) if "%" in name or "images x" in name or name in ("edges", "rotated")]
        for cell in (row[column] for row in table.rows for column in measured):
            if cell:
                numbers += 1
                assert cell.target in page.ids, (table.name, cell)
    assert {table.name for _, table in tables} == TABLES & {"teacher", "hybrids", "vmoe", "nac", "labelled", "ood", "renditions", "fewshot"}
    assert numbers > 50


def test_columns_without_anything_are_left_out(report):
    vmoe = report[2].partition('id="table-vmoe"')[2].partition("<thead>")[2].partition("</thead>")[0]
    assert ">IID top-1 %<" in vmoe and "published" not in vmoe and "difference" not in vmoe and ">profile<" not in vmoe


def test_it_judges_nothing_at_a_reduced_scale(report):
    assert "this page judges nothing about the paper" in report[2]
    assert "synthetic" in report[2].partition('id="table-data"')[2].partition("</table>")[0]


def test_text_in_drawings_stays_text(report):
    drawing = report[2].partition("<svg")[2].partition("</svg>")[0]
    assert ">pure KD</text>" in drawing and "vmoe_base, digits@32" in drawing
    assert not re.search("#[0-9a-f]{6}", drawing)  # colours are those of the page, light or dark


def test_figures_tell_what_stands_where(report):
    text = report[2]
    for name, drawing in re.findall(r'<figure id="figure-([^"]+)">(.*?)</figure>', text, flags=re.DOTALL):
        marks = json.loads(drawing.partition('<script type="application/json">')[2].partition("</script>")[0])
        assert marks, name
        assert all(0 <= x <= 1 and 0 <= y <= 1 and words and series >= 0 for x, y, words, series in marks), name
        if name == "bars-iid":
            said = "vmoe_base, digits@32, pure KD: 93.00 ± 8.96, seeds 90.00, 92.00, 97.00"
            assert said in [words for _, _, words, _ in marks]
    curve = text.partition('id="figure-curves-vmoe_base-corrected"')[2].partition("</figure>")[0]
    # Three variants, the loss at three epochs and the accuracy at two of them.
    assert curve.count("end to end, epoch") == curve.count("m2mKD, epoch") == 5
    assert "pure KD, epoch 2, validation top-1 %: 94 ± 8.96" in curve and "pure KD, epoch 2, cross-entropy: 1.5" in curve


def test_every_figure_says_what_its_error_bars_are(report):
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", report[2], flags=re.DOTALL)
    assert captions and all("95 % interval" in caption for caption in captions if "of each module" not in caption)
    assert "deviation" not in "".join(captions)


def test_a_picture_for_the_readme(report):
    assert (report[1] / "results/smoke/overview.png").read_bytes().startswith(b"\x89PNG")


def test_at_the_papers_scale_it_reports_both_profiles(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = plan(tmp_path, "paper", ["vmoe_base/m2mkd"], ["recipes.vmoe_finetune.lr=0.25"])
    finish(study)
    write_report(Results.read(study))
    text = Path("results/paper/report.html").read_text()
    assert "judges nothing" not in text
    assert "vmoe_base (released), imagenet-1k@224" in text and "vmoe_base (corrected), imagenet-1k@224" in text
    assert "<code>recipes.vmoe_finetune.lr=0.25</code>" in text
    assert "--config scale=paper &#39;overrides={&#34;recipes&#34;: {&#34;vmoe_finetune&#34;: {&#34;lr&#34;: 0.25}}}&#39;" in text


def test_data_that_is_here_is_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = plan(tmp_path, "smoke", ["vmoe_base/end_to_end"])
    (data,) = {data for run in study.runs.values() for data in run.config.data_sets if data.name == "digits"}
    prepare(data.name, load.datasets()[data.name], data.image_size, Path(data.folder), processes=1)
    finish(study, lambda run, seed: 323 / 359)
    write_report(Results.read(study))
    page = Page(Path("results/smoke/report.html").read_text())
    (picture,) = page.all("img")  # that of digits-r is only pretended to be here
    kind, _, content = picture["src"].partition(",")
    assert kind == "data:image/webp;base64"
    shown = Image.open(io.BytesIO(base64.b64decode(content)))
    assert shown.size == (int(picture["width"]), int(picture["height"])) == contact_sheet(open_pack(Path(data.folder))).size
    assert "digits" in picture["alt"] and len(picture["alt"]) > 30


def test_it_names_rows_with_more_seeds_and_counts_runs_that_its_own_experiments_share(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    more = "experiment_changes.vmoe_base.variants.m2mkd.seeds=[2]"
    study = plan(tmp_path, "smoke", ["vmoe_base/end_to_end", "vmoe_base/m2mkd"], [more], seeds=2)
    for run in study.runs.values():
        run.users.add("ablation_of_the_same_scale")  # as a planned study has it
    finish(study)
    write_report(Results.read(study))
    text = Path("results/smoke/report.html").read_text()
    assert "2 seeds or more of each student" in text and "0, 1 of each student; also 2 of <code>vmoe_base/m2mkd</code></dd>" in text
    assert f"0 of {len(study.runs)} runs serve more than one experiment" in text
