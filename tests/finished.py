"""A project with finished runs at scale smoke: real weights, initial ones, and a student that was really evaluated."""

import time
from pathlib import Path

import pytest

from m2mkd.config import load
from m2mkd.data.prepare import prepare
from m2mkd.families.build import build_module, build_student
from m2mkd.models.vit import StagedViT, build_stage
from m2mkd.models.weights import stage_state
from m2mkd.results.judge.results import Results
from m2mkd.results.tables.compile import compile_tables
from m2mkd.seeds import forked_rng
from m2mkd.study.phase import CURVES, WEIGHTS
from m2mkd.training.curves import Curves
from m2mkd.training.job import Outcome, job_of, record_outputs
from tests import fabricated, tiny, wiring
from tests.conftest import ROOT


def initial(config):
    """Weights of a run, as they are before training."""
    data = config.data if hasattr(config, "data") else None
    sizes = {"image_size": data.image_size, "num_classes": data.classes} if data else {"image_size": 32, "num_classes": tiny.CLASSES}
    with forked_rng("initial", config.phase if config.phase != "split_teacher" else "assemble_teacher"):
        match config.phase:
            case "pretrain_meta" | "assemble_teacher":
                return StagedViT(config.model, **sizes).state_dict()
            case "split_teacher":
                return stage_state(StagedViT(config.model, **sizes).state_dict(), config.index)
            case "incubate_module":
                return build_stage(config.model, config.index, **sizes).state_dict()
            case "distill_module":
                more = {"stitch_width": config.meta.width, "drop_path": 0.0, "state_seed": 5, "compat": config.compat}
                return build_module(config.student, config.index, **sizes, **more).state_dict()
            case "train_student":
                return build_student(config.student, prior=None, stitch_width=None, compat=config.compat, **sizes).state_dict()


def publish(study, run, outcome):
    folder = Path(study.folder(run.id))
    if CURVES in run.config.OUTPUTS:
        line = {"epoch": 1, "step": 4, "lr": 0.1, "loss": 1.0, "val_loss": 1.0, "val_top1": outcome.metrics["val_top1"], "val_top5": 1.0}
        Curves(folder / CURVES).append(line)
    record_outputs(run, folder, outcome, time.time() - 5, computed=fabricated.computed_here())


def make_project(root):
    """Fill a folder with configuration, data sets, finished runs and compiled tables, and give the study."""
    for name in ("config", "CITATION.cff"):
        (root / name).symlink_to(ROOT / name)
    (root / "results").mkdir()
    (root / "results/published").symlink_to(ROOT / "results/published")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(root)
        study = tiny.smoke("vmoe_base/m2mkd", "nac_tiny_imagenet_scale_free/end_to_end")
        for data in {data for run in study.runs.values() for data in run.config.data_sets}:
            prepare(data.name, load.datasets()[data.name], data.image_size, Path(data.folder), processes=1)
        planned = dict(zip(study.runs, wiring.plan_of(study, *study.runs.values()), strict=True))
        for run in study.runs.values():
            if run.phase == "evaluate":
                outcome = wiring.run_phase(job_of(planned[run.id], lambda: wiring.CPU))
            else:
                weights = initial(run.config) if WEIGHTS in run.config.OUTPUTS else None
                outcome = Outcome(fabricated.measured(run.config, 0.5), weights)
            publish(study, run, outcome)
        compile_tables(Results.read(study))
    return study
