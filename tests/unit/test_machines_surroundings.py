"""Machines as they are: leaked variables, file systems that lack calls, other locales, unknown users, quotas, closed streams."""

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from m2mkd import cores, files, locks
from m2mkd.containers.source import project_files
from m2mkd.errors import InputError, Interrupted
from m2mkd.ranks import ALONE, Ranks, started_by_launcher
from m2mkd.signals import SignalGuard, heeding
from m2mkd.training import gpus
from m2mkd.training.job import provenance
from tests.conftest import ROOT
from tests.workflow.servers import need

LAUNCHER = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
THERE = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def environment(**variables: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in LAUNCHER} | {"PYTHONPATH": str(ROOT)} | variables


def m2mkd(*arguments: str, code: str = "", **options) -> subprocess.CompletedProcess[str]:
    options.setdefault("env", environment())
    return subprocess.run([sys.executable, "-m", "m2mkd", *arguments], capture_output=True, text=True, check=False, cwd=ROOT, **options)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ALONE),
        ({"RANK": "1"}, ALONE),
        ({"RANK": ""}, ALONE),
        ({"RANK": "", "WORLD_SIZE": ""}, ALONE),
        ({"RANK": "x"}, ALONE),
        ({"WORLD_SIZE": "1"}, ALONE),
        ({"RANK": "0", "WORLD_SIZE": "1"}, ALONE),
        ({"RANK": "1", "WORLD_SIZE": "2", **THERE}, Ranks(1, 2)),
    ],
    ids=str,
)
def test_a_leaked_number_says_nothing(monkeypatch, variables, expected):
    for name in LAUNCHER:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Ranks.here() == expected
    assert started_by_launcher() == ({"RANK", "WORLD_SIZE"} <= {name for name, value in variables.items() if value})


@pytest.mark.parametrize(
    "variables",
    [
        {"WORLD_SIZE": "4"},
        {"WORLD_SIZE": "4", "RANK": ""},
        {"WORLD_SIZE": "4", "RANK": "0"},
        {"WORLD_SIZE": "2", "RANK": "2", **THERE},
        {"WORLD_SIZE": "0", "RANK": "0"},
        {"WORLD_SIZE": "two", "RANK": "0"},
        {"WORLD_SIZE": "2", "RANK": "-1", **THERE},
        {"WORLD_SIZE": "2", "RANK": "²", **THERE},
    ],
    ids=str,
)
def test_numbers_that_contradict_each_other_are_refused(monkeypatch, variables):
    for name in LAUNCHER:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="unset RANK and WORLD_SIZE"):
        Ranks.here()


def test_a_signal_ends_the_wait_for_a_partner():
    code = (
        "import torch\n"
        "from m2mkd.errors import Interrupted\nfrom m2mkd.ranks import Ranks\nfrom m2mkd.signals import SignalGuard\n"
        "from m2mkd.training.device import join\n"
        "try:\n with SignalGuard(at_once=True):\n  print('waiting', flush=True)\n  join(torch.device('cpu'), Ranks(1, 2))\n"
        "except Interrupted as stopped:\n import os; print(stopped, flush=True); os._exit(75)\n"
    )
    variables = environment(RANK="1", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT="29599")
    process = subprocess.Popen([sys.executable, "-c", code], env=variables, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout.readline() == "waiting\n"
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 75 and "SIGTERM" in process.stdout.read()


def test_what_is_waited_for_keeps_its_errors():
    def fail():
        raise ValueError("as it was")

    with pytest.raises(ValueError, match="as it was"):
        heeding(fail)
    done = []
    heeding(lambda: done.append(1))
    assert done == [1]
    with SignalGuard(at_once=True), pytest.raises(Interrupted):
        heeding(lambda: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(5)))


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP, errno.EMLINK, errno.EINVAL, errno.EACCES])
def test_without_links_a_file_is_copied(monkeypatch, tmp_path, number):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "link", refuse)
    (tmp_path / "source").write_text("content")
    files.publish(tmp_path / "source", tmp_path / "runs/target")
    assert (tmp_path / "runs/target").read_text() == "content" and len(list((tmp_path / "runs").iterdir())) == 1


def test_where_nothing_can_be_brought_to_the_disk_it_is_written_all_the_same(monkeypatch, tmp_path):
    def refuse(_):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(files.os, "fsync", refuse)
    files.write_json(tmp_path / "a.json", {"a": 1})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_without_locks_of_the_file_system_two_still_do_not_meet(monkeypatch, tmp_path, number):
    from filelock import Timeout

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    held = locks.hold(tmp_path / "a.lock")
    with pytest.raises(Timeout):
        locks.hold(tmp_path / "a.lock", timeout=0)
    held.release()
    locks.hold(tmp_path / "a.lock", timeout=0).release()
    (tmp_path / "folder").mkdir()
    with files.replacing(tmp_path / "folder") as partial:
        (partial / "new").touch()
    assert (tmp_path / "folder/new").exists()


def test_an_error_of_the_system_names_the_file(monkeypatch, tmp_path):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space") as raised:
        files.write_atomically(tmp_path / "a.json", full)
    assert raised.value.filename == str(tmp_path / "a.json")


@pytest.mark.parametrize("variables", [{"HOME": "/nowhere"}, {}])
def test_a_user_whom_the_system_does_not_know_has_a_name_and_a_home(tmp_path, variables):
    code = (
        "import os\nos.environ.pop('HOME', None); os.environ.pop('USER', None); os.environ.pop('LOGNAME', None)\n"
        f"os.environ.update({variables!r})\n"
        "import pwd\ndef unknown(uid): raise KeyError(uid)\npwd.getpwuid = unknown\n"
        "from m2mkd import surroundings\nsurroundings.settle()\n"
        "import getpass; from pathlib import Path\n(Path.home() / 'mine').touch(); print(getpass.getuser())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(TMPDIR=str(tmp_path)), capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == f"uid-{os.getuid()}\n"


@pytest.fixture(scope="session")
def latin_1(tmp_path_factory) -> dict[str, str]:
    """A locale that is not UTF-8, as some clusters have."""
    if not shutil.which("localedef"):
        need(None, "no localedef; on Debian: apt-get install -y locales")
    folder = tmp_path_factory.mktemp("locales")
    subprocess.run(["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(folder / "en_US")], capture_output=True, check=False)
    if not (folder / "en_US").exists():
        need(None, "localedef has no en_US; on Debian: apt-get install -y locales")
    return {"LOCPATH": str(folder), "LC_ALL": "en_US"}


@pytest.mark.parametrize("kind", ["C", "POSIX", "latin-1", "latin-1 without UTF-8 mode"])
def test_any_locale_will_do(request, kind):
    variables = {"LC_ALL": kind} if kind in ("C", "POSIX") else dict(request.getfixturevalue("latin_1"))
    if "without" in kind:
        variables["PYTHONUTF8"] = "0"
    code = "from m2mkd import surroundings\nsurroundings.settle()\nprint(%a)"
    title = "a title with \N{EM DASH} and \N{GRINNING FACE}"
    done = subprocess.run(
        [sys.executable, "-c", code % title],
        env=environment(**variables), capture_output=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"a title with ")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams_are_no_obstacle(closed):
    line = f'"{sys.executable}" -m m2mkd data list {closed}'
    done = subprocess.run(["bash", "-c", line], env=environment(), capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_leaves_is_no_failure_to_tell():
    line = f'"{sys.executable}" -m m2mkd runs list --scale paper | head -1'
    done = subprocess.run(["bash", "-c", line], env=environment(), capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stderr == "" and done.stdout


def test_tables_that_are_piped_hold_whole_keys():
    done = m2mkd("runs", "list", "--scale", "smoke", env=environment(COLUMNS="40"))
    assert "\N{HORIZONTAL ELLIPSIS}" not in done.stdout and all(
        len(line.split("\t")[0].split("/")[1]) == 16 for line in done.stdout.splitlines()
    )


def commit(folder: Path) -> str:
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost"]
    subprocess.run([*git, "init", "-q"], cwd=folder, check=True)
    subprocess.run([*git, "commit", "-qm", "x", "--allow-empty"], cwd=folder, check=True)
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def test_a_commit_is_the_project_s_own(monkeypatch, tmp_path):
    commit(tmp_path)
    inner = tmp_path / "project"
    inner.mkdir()
    monkeypatch.chdir(inner)
    assert [provenance()[name] for name in ("git_commit", "git_dirty")] == [None, None]
    own = commit(inner)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))  # as in a hook of the other
    assert [provenance()[name] for name in ("git_commit", "git_dirty")] == [own, False]


def test_an_archive_of_the_project_passes_tests_without_a_repository(tmp_path):
    files = [name for name in project_files(ROOT) if (ROOT / name).is_file()]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    options = {"cwd": tmp_path, "capture_output": True, "text": True}
    options["env"] = environment(PYTHONPATH=str(tmp_path), M2MKD_DATA_PACKS="/nowhere", M2MKD_REQUIRE="")
    code = "from pathlib import Path; from m2mkd.containers.source import project_files; print(*project_files(Path()), sep='\\n')"
    listed = subprocess.run([sys.executable, "-c", code], check=False, **options)
    assert sorted(listed.stdout.splitlines()) == sorted(files), listed.stderr
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-n", "0", "tests/unit/data/test_no_images.py"], check=False, **options)
    assert done.returncode == 0 and "3 passed, 1 skipped" in done.stdout, done.stdout


@pytest.mark.parametrize(
    ("files", "lines", "expected"),
    [
        ({"cpu.max": "150000 100000"}, "0::/", 1),
        ({"cpu.max": "max 100000"}, "0::/", None),
        ({"a/cpu.max": "max 100000", "cpu.max": "100000 100000"}, "0::/a", 1),
        ({"a/b/cpu.max": "20000 100000"}, "0::/a/b", 1),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, "3:cpu:/", 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "3:cpu:/", None),
        ({}, "", None),
    ],
    ids=str,
)
def test_quotas_of_cpu_time_are_heeded(tmp_path, files, lines, expected):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{content}\n")
    (tmp_path / "own").write_text(lines)
    assert cores.usable(tmp_path, tmp_path / "own") == (expected or len(os.sched_getaffinity(0)))


def test_a_number_means_the_same_gpu_to_cuda_as_to_the_driver(monkeypatch):
    monkeypatch.setattr(gpus, "known_to_driver", lambda: {"0": "GPU-slow", "1": "GPU-fast"})
    monkeypatch.setenv(gpus.VISIBLE, "1")
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    assert gpus.visible() == ["GPU-fast"]
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    assert gpus.visible() == ["1"], "by that order it may be the other"
    code = "from m2mkd import surroundings; surroundings.settle(); import os; print(os.environ['CUDA_DEVICE_ORDER'])"
    variables = {name: value for name, value in environment().items() if name != "CUDA_DEVICE_ORDER"}
    assert subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, check=True, cwd=ROOT).stdout == b"PCI_BUS_ID\n"


def make(folder: Path, *arguments: str, **variables: str) -> str:
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=environment(**variables), capture_output=True, text=True, check=False
    ).stdout


@pytest.fixture
def makefile(tmp_path) -> Path:
    """A folder with the Makefile, a target that prints the environment, and a virtual environment that says where it was made."""
    folder = tmp_path / "project"
    (folder / ".venv").mkdir(parents=True)
    (folder / "Makefile").write_text((ROOT / "Makefile").read_text() + "\nshow:\n\t@env\n")
    (folder / ".venv/.place").write_text(f"{folder}\n")
    return folder


def test_an_environment_is_made_anew_after_the_folder_was_renamed(makefile):
    make(makefile, "show")
    assert (makefile / ".venv").is_dir()
    moved = makefile.rename(makefile.with_name("renamed"))
    make(moved, "-n", "show")
    assert (moved / ".venv").is_dir(), "only looking"
    assert "lies elsewhere now" in make(moved, "show") and not (moved / ".venv").exists()


def test_an_environment_that_is_a_link_stays(makefile):
    (makefile / ".venv").rename(makefile.parent / "shared")
    (makefile / ".venv").symlink_to(makefile.parent / "shared")
    moved = makefile.rename(makefile.with_name("renamed"))
    make(moved, "show")
    assert (makefile.parent / "shared/.place").is_file()


def test_what_a_person_has_set_for_other_projects_is_kept_out(makefile):
    own = {"PYTHONSTARTUP": "/x", "PIP_TARGET": "/x", "PIP_USER": "1", "UV_PRERELEASE": "allow", "GIT_DIR": "/x", "PYTHONPATH": "/x"}
    shown = make(makefile, "show", **own, PIP_FIND_LINKS="/wheels", UV_FIND_LINKS="/wheels", PIP_INDEX_URL="file:///index").splitlines()
    assert not {line.partition("=")[0] for line in shown} & own.keys()
    assert {"PYTHONNOUSERSITE=1", "PIP_FIND_LINKS=/wheels", "UV_FIND_LINKS=/wheels", "PIP_INDEX_URL=file:///index"} <= set(shown)
