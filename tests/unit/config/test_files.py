"""The files of config/ and the published numbers fit each other, the code, and the sources that they quote."""

import csv
import re
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
import yaml

from m2mkd.config import load
from m2mkd.config.claims import Claim, load_claims
from m2mkd.config.compat import Profile
from m2mkd.config.detection_experiment import DetectionExperiment
from m2mkd.config.experiment import Scale, Settings, StudentExperiment, TeacherExperiment, TransferExperiment
from m2mkd.config.models import NACConfig, ViTConfig
from m2mkd.config.seeds import seeds_of
from m2mkd.study.phase import PHASES
from m2mkd.study.plan import build_study
from m2mkd.study.study import Study
from tests.conftest import ROOT

SCALES = sorted(path.stem for path in (ROOT / "config/scales").glob("*.yaml"))
EXPERIMENTS = sorted(path.stem for path in (ROOT / "config/experiments").glob("*.yaml") if not path.stem.startswith("ablation_"))
PUBLISHED = sorted((ROOT / "results/published").glob("*.csv"))
STATUSES = {"VERIFIED", "ABSTRACT-ONLY", "SECONDARY", "DERIVED", "NOT FOUND"}
CLAIMS = load_claims(ROOT / "config/claims.tsv")


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    load.datasets.cache_clear()
    load.switches.cache_clear()


@cache
def whole_study(scale: str) -> Study:
    return build_study(Settings(scale=scale), ablations=True)


def row_names(name: str, scale: Scale) -> set[str]:
    """Variants of an experiment as the tables name them."""
    experiment = load.experiment(name, scale)
    if isinstance(experiment, TeacherExperiment):
        return {"teacher"}
    if isinstance(experiment, StudentExperiment | DetectionExperiment):
        return set(experiment.variants)
    return set(experiment.students)


def published(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# --- studies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES)
def test_every_experiment_of_a_scale_builds_alone_and_gives_a_row_in_each_profile(scale: str):
    content = load.scale(scale, {})
    for selector in content.experiments:
        study = build_study(Settings(scale=scale, experiments=(selector,)))
        name, _, variant = selector.partition("/")
        expected = {(name, row, profile) for row in ([variant] if variant else row_names(name, content)) for profile in content.profiles}
        assert {(row.experiment, row.variant, row.profile) for row in study.rows} == expected


@pytest.mark.parametrize("scale", SCALES)
def test_models_fit_their_data_at_every_scale(scale: str):
    for run in whole_study(scale).runs.values():
        config = run.config
        for field in ("model", "meta", "teacher", "student"):
            model, data = getattr(config, field, None), getattr(config, "data", None)
            if data is None:
                continue
            if isinstance(model, ViTConfig):
                assert data.image_size % model.patch_size == 0, f"{run.id}: {field} cuts {data} into patches of {model.patch_size}"
            if isinstance(model, NACConfig):
                stride = model.tokenizer.stem_stride * 2 ** (len(model.tokenizer.depths) - 1)
                assert data.image_size % stride == 0, f"{run.id}: {data} and the tokenizer's stride {stride}"
                for groups in (model.graph.groups, model.graph.regulariser_groups or 1):
                    assert model.latents.mediator % groups == 0, f"{run.id}: {model.latents.mediator} mediators in {groups} groups"


def test_scale_paper_runs_every_experiment_in_both_profiles_unchanged():
    scale = load.scale("paper", {})
    assert sorted(scale.experiments) == EXPERIMENTS
    assert set(scale.profiles) == set(get_args(Profile))
    assert not (scale.data or scale.models or scale.recipes or scale.detectors or scale.detection_recipes or scale.experiment_changes)


def test_scale_tiny_imagenet_reads_nothing_but_tiny_imagenet():
    study = whole_study("tiny-imagenet")
    assert {(data.name, data.image_size) for run in study.runs.values() for data in run.config.data_sets} == {
        ("tiny-imagenet", 64),
        ("tiny-imagenet-r", 64),
    }


def test_priors_share_the_distilled_modules():
    priors = tuple(name for name in EXPERIMENTS if name.startswith("nac_tiny_imagenet_"))
    runs = build_study(Settings(scale="paper", experiments=priors)).runs.values()
    scale = load.scale("paper", {})
    assert len(priors) == 4
    assert sum(run.phase == "distill_module" for run in runs) == 10 * len(seeds_of(scale.seeds)) * len(scale.profiles)


# --- sizes of the sources --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "peak", "final"),
    [  # specification vmoe.md 4.4 and nac.md 13
        ("pretrain_meta", 2e-3, 1e-5),
        ("incubate_module", 2e-3, 1e-5),
        ("assemble_teacher", 1e-3, 1e-5),
        ("assemble_vit_base", 2e-3, 1e-5),
        ("distill_module", 2e-3, 1e-5),
        ("vmoe_finetune", 1e-3, 1e-5),
        ("vmoe_end_to_end_100", 1e-3, 1e-5),
        ("vmoe_end_to_end_300", 5e-4, 1e-5),
        ("nac_tiny_imagenet", 2.4e-3, 8e-5),
        ("nac_imagenet", 6e-4, 2e-5),
        ("probe_vmoe", 2e-3, 1e-5),
    ],
)
def test_learning_rates_at_paper_scale(recipe: str, peak: float, final: float):
    found = load.catalogue(load.scale("paper", {})).recipes[recipe]
    assert (found.peak_lr, found.final_lr) == pytest.approx((peak, final))


@pytest.mark.parametrize(
    ("model", "blocks", "modules"),
    [
        ("deit_large", 24, 4),
        ("meta_large", 4, 4),
        ("deit_huge", 32, 10),
        ("meta_huge", 10, 10),
        ("deit_huge_4", 32, 4),
        ("meta_huge_4", 4, 4),
        ("deit_base", 12, 4),
        ("meta_base", 4, 4),
        ("vmoe_base", 12, 4),
    ],
)
def test_depths_sum_to_the_published_layers(model: str, blocks: int, modules: int):
    found = load.catalogue(load.scale("paper", {})).models[model]
    assert isinstance(found, ViTConfig)
    assert (sum(found.depths), found.modules) == (blocks, modules)


@pytest.mark.parametrize(("size", "drop_path"), [("base", 0.1), ("large", 0.5), ("huge", 0.6)])
def test_deep_incubations_own_settings(size: str, drop_path: float):
    """Its fine-tuning (specification vmoe.md 4.4); its meta models and modules are trained as m2mKD's teachers are."""
    scale = load.scale("paper", {})
    own, teacher = (load.experiment(name, scale) for name in (f"deep_incubation_vit_{size}", "teacher_deit_large"))
    assert isinstance(own, TeacherExperiment) and isinstance(teacher, TeacherExperiment)
    assert (own.pretrain, own.incubate) == (teacher.pretrain, teacher.incubate)
    recipes = load.catalogue(scale).recipes
    assert own.assemble is not None and teacher.assemble is not None
    assert recipes[own.assemble] == recipes[teacher.assemble].model_copy(update={"batch_size": 2048, "drop_path": drop_path})


def test_deep_incubations_networks_are_run_at_scale_paper_alone():
    with_them = [scale for scale in SCALES if any(row.experiment.startswith("deep_incubation_") for row in whole_study(scale).rows)]
    assert with_them == ["paper"]


def test_a_probe_recipe_holds_a_whole_episode():
    scale = load.scale("paper", {})
    recipes = load.catalogue(scale).recipes
    probes = [(name, probe) for name in EXPERIMENTS if (probe := getattr(load.experiment(name, scale), "probe", None))]
    assert len(probes) == 4
    for name, probe in probes:
        assert recipes[probe.recipe].batch_size >= probe.way * probe.shots, name


# --- headers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_header_says_what_where_how_long_what_number_and_how(name: str):
    header = []
    for line in (ROOT / f"config/experiments/{name}.yaml").read_text().splitlines():
        if not line.startswith("#"):
            break
        header.append(line)
    assert 5 <= len(header) <= 10
    for field in ("Reproduces", "Published", "Hardware", "Time", "Expect"):
        assert sum(line.startswith(f"# {field}: ") for line in header) == 1, f"{name}: header lacks '{field}: '"
    assert header[-1] == f"# Run: snakemake --cores all {name} --config scale=paper"
    assert max(map(len, header)) <= 150


def test_a_claim_that_a_header_names_exists():
    ids = [claim.id for claim in CLAIMS]
    for path in (ROOT / "config/experiments").glob("*.yaml"):
        name, text = path.stem, path.read_text()
        for named in re.findall(r"\(claims ([^)]*)\)", text):
            for pattern in named.split(" and "):
                assert any(re.fullmatch(pattern.replace("*", ".*"), id_) for id_ in ids), f"{name}: no claim {pattern}"


# --- claims and published numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_claim_can_be_judged_where_it_says(claim: Claim):
    assert (claim.status == "PREDICTED") == (claim.subject == "suite")
    assert claim.claim.endswith(".")
    assert claim.size is None or f"{claim.size:g}%" in claim.claim
    rows = {(row.experiment, row.variant, row.profile) for row in whole_study(claim.scale).rows}
    for member in claim.members():
        for side in filter(None, member):
            assert (*side, claim.profile) in rows, f"scale {claim.scale} has no {side} in profile {claim.profile}"


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_numbers_name_our_runs_and_their_sources(path: Path):
    scale = load.scale("paper", {})
    for row in published(path):
        assert list(row) == ["experiment", "variant", "split", "metric", "value", "unit", "source", "status"]
        if row["experiment"]:
            assert row["variant"] in row_names(row["experiment"], scale), row
        assert row["variant"] and row["source"], row
        assert row["status"] in STATUSES, row
        assert row["split"] in {"", "iid", "ood", "fewshot", "train"}, row
        assert bool(row["value"]) == (row["status"] != "NOT FOUND"), f"a number without a source, or a source without a number: {row}"
        if row["value"]:
            float(row["value"])


def test_no_published_number_stands_twice_for_one_run():
    for path in PUBLISHED:
        cells = [tuple(row[key] for key in ("experiment", "variant", "split", "metric")) for row in published(path)]
        assert len(set(cells)) == len(cells), path


@pytest.mark.parametrize(("paper", "ids", "count"), [("nac", "nac_authors_", 8), ("deep_incubation", "deep_incubation_", 3)])
def test_claims_of_other_authors_are_their_published_numbers(paper: str, ids: str, count: int):
    lines = published(ROOT / f"results/published/{paper}.csv")
    cells = {(line["experiment"], line["variant"], line["split"]): line["value"] for line in lines if line["experiment"]}
    claims = [claim for claim in CLAIMS if claim.id.startswith(ids)]
    quoted = {(claim.population[0], claim.comparison, claim.metric.removesuffix("_top1")): f"{claim.size:g}" for claim in claims}
    assert len(quoted) == count
    assert quoted == cells


def test_headers_of_the_nac_experiments_quote_their_published_numbers():
    for row in published(ROOT / "results/published/nac.csv"):
        if row["experiment"]:
            quoted = f"{row['value']} {row['split'].upper()}"
            assert quoted in (ROOT / f"config/experiments/{row['experiment']}.yaml").read_text()


# --- compat ----------------------------------------------------------------------------------------------------------


def test_switches_apply_to_phases_and_families_that_exist():
    families = {"vit", "vmoe", "nac", "detector"}
    for name, switch in load.switches().items():
        assert switch.released != switch.corrected, name
        for target in switch.applies:
            phase, _, family = target.partition("/")
            assert phase in PHASES, f"{name}: {target}"
            assert not family or family in families, f"{name}: {target}"


def test_every_switch_reaches_a_run_at_paper_scale_with_the_value_of_its_profile():
    study = whole_study("paper")
    reached = {(name, value) for run in study.runs.values() for name, value in run.config.compat.items()}
    assert reached == {(name, value) for name, switch in load.switches().items() for value in (switch.released, switch.corrected)}


def test_every_switch_and_finding_is_in_the_deviations():
    text = (ROOT / "docs/deviations.md").read_text()
    rows = set(re.findall(r"^\| ([A-Z]\d+) \|", text, flags=re.MULTILINE))
    assert {f"V{i}" for i in range(1, 36)} | {f"N{i}" for i in range(1, 53)} | {f"D{i}" for i in range(1, 26)} <= rows
    assert set(re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)) == set(load.switches())
    for name, switch in load.switches().items():
        cited = re.findall(r"\b[VND]\d+", switch.about)
        assert cited and set(cited) <= rows, name
        line = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        assert f"`{switch.released}`" in line.replace("`1.0e-6`", "`1e-06`") and f"`{switch.corrected}`" in line, name
        for row in cited:
            assert row in line.split("|")[2], f"{name}: row {row} is cited but not listed"


# --- metadata --------------------------------------------------------------------------------------------------------


def test_citation_has_what_cff_requires_and_prefers_the_paper():
    # Only what the Citation File Format 1.2.0 requires: cffconvert, which has its whole schema, needs jsonschema below 4.
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software"
    assert citation["message"] and citation["title"] and citation["authors"]
    paper = citation["preferred-citation"]
    assert (paper["type"], paper["year"], paper["url"]) == ("article", 2024, "https://arxiv.org/abs/2402.16918")
    assert "m2mKD" in paper["title"]
    assert len(paper["authors"]) == 8
    for person in paper["authors"]:
        assert set(person) == {"given-names", "family-names"}


def test_licence_is_the_whole_apache_2():
    text = (ROOT / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text and "9. Accepting Warranty" in text


def test_transfer_experiments_name_students_that_exist():
    scale = load.scale("paper", {})
    for name in EXPERIMENTS:
        experiment = load.experiment(name, scale)
        if isinstance(experiment, TransferExperiment):
            for selector in experiment.students:
                source, _, variant = selector.partition("/")
                assert variant in row_names(source, scale), f"{name}: {selector}"
