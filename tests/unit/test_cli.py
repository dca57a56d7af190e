"""The command line: what it refuses, and how."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

M2MKD = Path(sys.executable).parent / "m2mkd"


def m2mkd(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([M2MKD, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture
def root(tmp_path):
    """A folder in which the commands work, with its own results."""
    (tmp_path / "config").symlink_to(ROOT / "config")
    return tmp_path


def refused(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    for part in parts:
        assert part in done.stderr


def test_help_names_the_verbs():
    done = m2mkd("--help")
    assert done.returncode == 0
    for verb in (
        "config",
        "runs",
        "run",
        "data",
        "compile",
        "report",
        "track",
        "reproduce",
        "restore",
        "plan",
        "graph",
        "import",
        "evaluate",
        "claims",
    ):
        assert verb in done.stdout


def test_help_imports_no_heavy_library():
    heavy = "{'torch', 'timm', 'pandas', 'mlflow', 'snakemake', 'numpy', 'yaml'}"
    script = f"import sys; from m2mkd import cli; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_training_code_needs_no_pipeline_library():
    script = (
        "import sys; import m2mkd.training.phases.train_student, m2mkd.training.phases.evaluate;"
        "print(sorted({'pandas', 'mlflow', 'snakemake', 'dvc', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_show_prints_the_resolved_configuration_and_keys():
    done = m2mkd("config", "show", "vmoe_base", "--scale", "small", "--full")
    assert "# distill_module/" in done.stdout
    assert "kl_norm: batch" in done.stdout


def test_show_is_an_outline_unless_everything_is_asked_for(typed):
    code, said, _ = typed("config", "show", "vmoe_base", "--scale", "paper")
    assert code == 0 and len(said.splitlines()) < 25
    assert "variants: end_to_end, end_to_end_300, pure_kd, pure_kd_300, m2mkd" in said
    (line,) = [line.split() for line in said.splitlines() if "300 epochs, batch 512" in line]
    assert line[:3] == ["train_student", "12", "imagenet-1k@224"]


def test_show_gives_everything_as_json(typed):
    _, said, _ = typed("config", "show", "vmoe_base/end_to_end", "--scale", "smoke", "--json")
    runs = json.loads(said)["runs"]
    assert {run["config"]["phase"] for run in runs.values()} == {"train_student", "evaluate"}


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("plan vmoe_b", ["vmoe_base", "vmoe_base_labels_only"]),
        ("runs list vmoe_base/m", ["vmoe_base/m2mkd"]),
        ("compile --scale smo", ["smoke"]),
    ],
)
def test_a_shell_completes_names(words, names):
    environment = os.environ | {"_M2MKD_COMPLETE": "complete_bash", "COMP_WORDS": f"m2mkd {words}", "COMP_CWORD": str(len(words.split()))}
    done = subprocess.run([M2MKD], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == names, done.stderr


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("config", "validate", "vmoe_bsae"), ("vmoe_bsae", "did you mean 'vmoe_base'?")),
        (("config", "validate", "vmoe_base", "--scale", "papr"), ("papr", "did you mean 'paper'?")),
        (("config", "validate", "vmoe_base", "--set", "recipes.pretrain_meta.lr=fast"), ("recipes.pretrain_meta.lr", "(it is 'fast')")),
        (("config", "validate", "vmoe_base", "--set", "models.deit_large.depths=[2,2]"), ("same number of stages",)),
        (("config", "validate", "vmoe_base", "--set", "data.imagenet-1k@224=digits"), ("'digits'", "name@pixels")),
        (("config", "validate", "vmoe_base", "--set", "data.imagenet-1k@224=digit@32"), ("'digit'", "config/datasets.yaml")),
        (("config", "validate", "vmoe_base", "--set", "data.imagenet-1k@224=digits-r@32"), ("digits-r@32 has no training images", "ood")),
        (("run", "train_student/zz"), ("train_student/zz", "m2mkd runs list")),
        (("run", "train_student/"), ("fits 56 runs",)),
        (("data", "prepare", "digits"), ("'digits'", "name@pixels")),
        (("data", "prepare", "imagenet-1k@224"), ("imagenet-1k",)),
        (("data", "show", "digits@32"), ("manifest.json: missing; run 'm2mkd data prepare digits@32' first",)),
        (("data", "verify", "digits"), ("run 'm2mkd data prepare digits@PIXELS'",)),
        (("data", "verify", "cub-20"), ("run 'm2mkd data fetch cub-20'",)),
        (("run", "pretrain_meta/", "--device", "cuda"), ("--device cuda", "use --device cpu")),
        (("run", "pretrain_meta/", "--device", "cpu"), ("manifest.json",)),
        (("run", "split_teacher/", "--experiment", "teacher_deit_large"), ("fits 4 runs",)),
        (("compile",), ("run.json",)),
    ],
)
def test_bad_input_is_one_line_and_status_2(root, arguments, parts):
    if "cuda" in arguments and Path("/dev/nvidia0").exists():
        pytest.skip("a GPU is there")
    refused(m2mkd(*arguments, cwd=root), *parts)


def test_what_comes_along_with_a_package_need_not_be_fetched(root):
    done = m2mkd("data", "fetch", "digits", cwd=root)
    assert (done.returncode, done.stderr, (root / "data").exists()) == (0, "", False)


def test_a_folder_where_a_file_should_go_is_one_line(root):
    assert m2mkd("data", "prepare", "digits@8", cwd=root).returncode == 0
    refused(m2mkd("data", "show", "digits@8", "-o", "data", cwd=root), "data: Is a directory; move it away, or choose another path,")


def test_outside_the_project_the_root_is_asked_for(tmp_path):
    refused(m2mkd("runs", "list", cwd=tmp_path), "config/config.yaml", "run from the root of the project")


def test_broken_yaml_names_the_file(tmp_path):
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.yaml").write_text("scale: [small")
    refused(m2mkd("runs", "list", cwd=tmp_path), "config/config.yaml", "not valid YAML")


def test_a_full_disk_is_one_line_and_leaves_no_output(root):
    """A limit on the size of files stands in for the disk's end: writing fails with the same kind of error."""
    assert m2mkd("data", "prepare", "digits@16", cwd=root).returncode == 0
    arguments = [
        "--scale",
        "smoke",
        "--experiment",
        "teacher_deit_large",
        "--set",
        "data.imagenet-1k@224=digits@16",
        "--set",
        "models.deit_large.width=256",
        "--set",
        "models.meta_large.width=256",
    ]
    limited = f"ulimit -f 2000; exec {M2MKD} run pretrain_meta/ {' '.join(arguments)} --device cpu"
    done = subprocess.run(["bash", "-c", limited], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("m2mkd: ")
    assert "free some space and run the same command again" in last
    assert "Traceback" not in done.stderr
    assert list((root / "results").rglob("*.safetensors")) == []
    assert list((root / "results").rglob("runs")) == []


def test_no_write_permission_is_one_line(root, monkeypatch, typed):
    """Tests may run as root, for whom every folder is writable, so the refusal of the system is made up."""
    from m2mkd import files

    def refuse(path, write):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.chdir(root)
    monkeypatch.setattr(files, "write_atomically", refuse)
    code, _, said = typed("config", "export")
    assert code == 2 and "Permission denied; make it writable" in said
