"""A new phase is one class, one file of training, one formula, and the line of the plan that asks for it; all else follows."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.fabricated import pretend_data
from tests.tiny import smoke

CLASS = '''

class MeasureChance(TeacherPhase):
    """Accuracy of a teacher that knows nothing."""

    OUTPUTS: ClassVar[tuple[str, ...]] = MEASURED
    phase: Literal["measure_chance"] = "measure_chance"
    model: ViTConfig
    data: Data

    def measurements(self, metrics: Mapping[str, Any]) -> Iterator[Measurement]:
        return accuracies("iid", str(self.data), metrics)
'''
TRAINING = '''"""Accuracy of a teacher that knows nothing."""

import math

from m2mkd.study.phases import MeasureChance
from m2mkd.training.job import Job, Outcome


def run(job: Job[MeasureChance]) -> Outcome:
    """Guess among the classes."""
    classes = job.config.data.classes
    return Outcome({"top1": 1 / classes, "top5": 5 / classes, "loss": math.log(classes), "count": 10 * classes})
'''
FORMULA = """

@work_of.register
def _(config: MeasureChance, count: Count) -> Work:
    return Work(published=transformer.network(config.model, config.data.image_size, config.data.classes))
"""
EDITS = {
    "m2mkd/study/phases.py": [("", CLASS)],
    "m2mkd/training/phases/measure_chance.py": [("", TRAINING)],
    "m2mkd/planning/work.py": [("    AssembleTeacher,\n", "    AssembleTeacher,\n    MeasureChance,\n"), ("", FORMULA)],
    "m2mkd/study/plan/teachers.py": [
        ("import AssembleTeacher, ", "import AssembleTeacher, MeasureChance, "),
        ("", '    draft.row(name, "chance", [trained], [draft.run(MeasureChance, model, {}, model=model, data=data)])\n'),
    ],
}
"""By file, texts and what takes their place; nothing, for the end of the file."""
PARTS = ("m2mkd", "config", "workflow", "results/published", "Snakefile")


def contents(root: Path) -> dict[str, bytes]:
    files = [path for part in PARTS for path in ([root / part] if (root / part).is_file() else (root / part).rglob("*"))]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files if path.is_file() and "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project with the new phase."""
    root = tmp_path_factory.mktemp("project")
    for part in PARTS:
        copy = shutil.copy if (ROOT / part).is_file() else shutil.copytree
        (root / part).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / part, root / part)
    for name, edits in EDITS.items():
        path = root / name
        text = path.read_text() if path.exists() else ""
        for old, new in edits:
            assert not old or text.count(old) == 1, f"{name}: {old}"
            text = text.replace(old, new) if old else text + new
        path.write_text(text)
    return root


def call(root: Path, *command: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-m", *command], cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def graph(project):
    """The plan of the copy, with a manifest of each data set."""
    config = json.dumps({"scale": "smoke", "experiments": ["teacher_deit_large"]})
    found = json.loads((project / call(project, "m2mkd", "runs", "plan", "--config", config).strip()).read_text())
    for config in (run.config for run in smoke("teacher_deit_large").runs.values()):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(project)
            pretend_data(config)
    return found


def test_it_touches_four_files(project):
    before, after = contents(ROOT), contents(project)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name) and not name.endswith(".pyc")}
    assert changed == EDITS.keys()


def test_it_has_a_place_in_the_plan_and_a_rule(project, graph):
    (run_id,) = (name for name in graph["runs"] if name.startswith("measure_chance/"))
    assert (project / f"results/smoke/plan/{run_id}.json").is_file()
    assert graph["phases"]["measure_chance"] == graph["phases"]["evaluate_teacher"] | {"priority": 0}
    assert "results/smoke/runs/measure_chance" in {str(path.relative_to(project)) for path in project.glob("results/smoke/runs/*")}
    rules = call(project, "snakemake", "--list-rules", "--config", "scale=smoke", "experiments=['teacher_deit_large']")
    assert {"measure_chance", "all_measure_chance"} <= set(rules.split())


def test_its_cost_is_planned(project, graph):
    assert "GPU-h" in call(project, "m2mkd", "plan", "teacher_deit_large", "--scale", "smoke")


def test_a_run_computes_and_the_tables_show_what_it_measured(project, graph):
    call(project, "m2mkd", "run", "measure_chance/", "--scale", "smoke", "--device", "cpu")
    (folder,) = project.glob("results/smoke/runs/measure_chance/*")
    assert json.loads((folder / "metrics.json").read_text())["top1"] == 0.1
    call(project, "m2mkd", "compile", "teacher_deit_large", "--partial", "--scale", "smoke")
    code = "from tests.tiny import smoke; from m2mkd.results.judge.results import Results\n"
    code += "found = Results.read(smoke('teacher_deit_large'), partial=True).measurements\n"
    code += "print(found[found.variant.eq('chance') & found.metric.eq('top1')].value.tolist())"
    (project / "collected.py").write_text(code)
    shutil.copytree(ROOT / "tests", project / "tests", ignore=shutil.ignore_patterns("__pycache__", "workflow"))
    assert call(project, "collected").strip() == "[0.1]"
