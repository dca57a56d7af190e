"""Students of a family of another package in tables, report and MLflow, with nothing but what a family must have."""

from pathlib import Path

import pytest

from m2mkd.config.registered_families import STUDENT_GROUP
from m2mkd.results.judge.results import Results
from m2mkd.results.report.write import write_report
from m2mkd.results.tables.compile import compile_tables
from m2mkd.study.labels import family_label
from m2mkd.tracking.mlflow_export import sync
from tests.fabricated import finish, plan
from tests.packages import made_up, project_with
from tests.unit.tracking.stored import tags

FAMILY = """
from typing import ClassVar, Literal
from torch import nn
from m2mkd.config.family import Architecture, StudentFamily
class MadeConfig(Architecture):
    family: Literal["made"] = "made"
    width: int = 16
    modules: ClassVar = 4
    stride: ClassVar = 1
class Made(StudentFamily):
    CONFIG: ClassVar = MadeConfig
    LABEL: ClassVar = "Made network"
    def build(self, config, *, image_size, num_classes, **_):
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * image_size**2, num_classes))
    def build_module(self, config, index, *, image_size, num_classes, stitch_width, **_):
        return nn.Linear(stitch_width, stitch_width)
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    made_up(tmp_path, monkeypatch, STUDENT_GROUP, "made = made_network:Made", FAMILY, "made-network")
    monkeypatch.chdir(project_with(tmp_path / "project", "{family: made}"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    changes = ["models.mine={}", "experiment_changes.vmoe_base.model=mine"]
    study = plan(tmp_path / "project", "smoke", ["vmoe_base/end_to_end", "nac_tiny_imagenet_scale_free/end_to_end"], changes, seeds=2)
    finish(study)
    return study


def test_it_has_tables_of_its_own_and_its_name_everywhere(study):
    compile_tables(Results.read(study))
    write_report(Results.read(study))
    page = Path(study.pages, "report.html").read_text()
    assert 'id="table-made"' in page and 'id="table-nac"' in page and 'id="table-vmoe"' not in page
    assert "Made network" in page and "width 16" in page
    sync(Results.read(study))
    assert {tag["mlflow.runName"] for tag in tags("row")} == {"end to end, Made network", "end to end, NAC Scale-Free"}


def test_a_family_that_is_not_installed_is_called_by_its_own_name():
    assert family_label("made and vmoe") == "made and V-MoE"
