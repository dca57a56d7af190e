"""Checks of the project: image, data roots, DVC, MLflow, versions."""

import os
import re
import sqlite3
import subprocess
import urllib.request
from http.client import HTTPException
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from m2mkd.config.experiment import Settings
from m2mkd.containers.image import ARCHIVES, archive_file, bind, named_image, runtime
from m2mkd.containers.source import source_digest
from m2mkd.doctor.check_result import CheckResult
from m2mkd.doctor.machine import answer
from m2mkd.errors import InputError
from m2mkd.tracking.address import DATABASE, DEFAULT_URI, URI_VARIABLE, without_credentials

LOCKS = Path("containers/locks")


def image(settings: Settings) -> CheckResult:
    """Check that the configured image exists and holds this package."""
    try:
        name = named_image(settings)
    except InputError as error:
        return CheckResult("image", "fail", *_split(error))
    if name is None:
        return CheckResult("image", "pass", "container: none; jobs run on the host")
    if settings.container.startswith(ARCHIVES):
        return _file(archive_file(settings.container)) or CheckResult("image", "pass", settings.container)
    return CheckResult("image", "pass", name) if "://" in name else _file(Path(name)) or _held(name)


def _file(path: Path) -> CheckResult | None:
    if path.is_file():
        return None
    return CheckResult("image", "warn", f"{path} does not exist", "only for --use-singularity: 'make image-cpu' or 'make image-cuda'")


def _held(sif: str) -> CheckResult:
    try:
        program = runtime()
    except InputError as error:
        return CheckResult("image", "warn", *_split(error))
    labels = answer_lines(program, "inspect", "--labels", sif)
    held = next((line.partition(":")[2].strip() for line in labels if line.startswith("org.m2mkd.source:")), "")
    if held != source_digest(Path("m2mkd")):
        return CheckResult("image", "fail", f"{sif} holds another m2mkd than this folder", "make it again: 'make image-cpu' or image-cuda")
    return CheckResult("image", "pass", sif)


def data_roots(settings: Settings) -> list[CheckResult]:
    """Check that each folder of ``binds`` exists and can be read inside the image."""
    if not settings.binds:
        return [CheckResult("data roots", "pass", "binds is empty; data are in the project")]
    return [_data_root(settings, folder) for folder in settings.binds]


def _data_root(settings: Settings, folder: str) -> CheckResult:
    try:
        bound = bind((folder,))
        name = named_image(settings)
    except InputError as error:
        return CheckResult("data roots", "fail", *_split(error))
    try:
        program = runtime()
    except InputError as error:
        return CheckResult("data roots", "warn", *_split(error))
    if name is None or "://" in name or not Path(name).is_file():
        return CheckResult(
            "data roots", "warn", f"{folder} exists, but there is no image to check it from", "make or name an image, then run this again"
        )
    target = bound.split(":")[1]
    done = subprocess.run([program, "exec", "--cleanenv", "--bind", bound, name, "ls", target], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return CheckResult("data roots", "fail", f"{target} cannot be read inside {name}: {reason}", "make it readable, or correct binds")
    return CheckResult("data roots", "pass", f"{target}, {len(done.stdout.splitlines())} entries inside {name}")


def dvc_remote() -> CheckResult:
    """Check that DVC has a remote to share results, and that remotes which are folders exist."""
    remotes = dict(line.split(maxsplit=1) for line in answer_lines("dvc", "remote", "list") if " " in line or "\t" in line)
    if not remotes:
        return CheckResult("dvc remote", "warn", "none", "only to share results: 'dvc remote add --default NAME URL'")
    shown = ", ".join(f"{name} {url}" for name, url in remotes.items())
    missing = [path for url in remotes.values() if "://" not in (path := url.removesuffix("(default)").strip()) and not Path(path).is_dir()]
    if missing:
        return CheckResult("dvc remote", "warn", f"{missing[0]} does not exist", "mount it; DVC makes it at the first push")
    return CheckResult("dvc remote", "pass", shown)


def mlflow_store(settings: Settings, patience: float = 5) -> CheckResult:
    """Check that runs can be recorded: in this project's file, or at the server that MLFLOW_TRACKING_URI or the configuration names."""
    uri = os.environ.get(URI_VARIABLE) or settings.tracking_uri or DEFAULT_URI
    shown = without_credentials(uri)
    if uri.startswith(("http://", "https://")):
        try:
            with urllib.request.urlopen(f"{shown.rstrip('/')}/health", timeout=patience) as reply:
                healthy = reply.status == 200
        except (HTTPException, OSError, ValueError) as error:
            fix = "start the server, or name another in MLFLOW_TRACKING_URI or tracking_uri"
            return CheckResult("mlflow store", "fail", f"{shown} does not answer ({error})", fix)
        return CheckResult("mlflow store", "pass" if healthy else "fail", shown, "" if healthy else "read the server's log")
    if uri != DEFAULT_URI:
        return CheckResult("mlflow store", "warn", f"{shown} is not checked", "'m2mkd track sync' shows whether it accepts the runs")
    if not DATABASE.exists():
        return CheckResult("mlflow store", "pass", f"{DATABASE} will be made")
    try:
        with sqlite3.connect(f"file:{DATABASE}?mode=ro", uri=True) as connection:
            state = connection.execute("pragma quick_check").fetchone()[0]
    except sqlite3.Error as error:
        state = str(error)
    if state != "ok":
        return CheckResult("mlflow store", "fail", f"{DATABASE}: {state}", "remove it; 'm2mkd track sync' fills a new one from the runs")
    return CheckResult("mlflow store", "pass", f"{DATABASE}, {DATABASE.stat().st_size / 1e6:.0f} MB")


def versions(lock: Path) -> CheckResult:
    """Check that the installed packages are those of the lock.

    Parameters
    ----------
    lock
        Requirements, each ``name==version``.
    """
    try:
        pins = dict(re.findall(r"^([\w.-]+)==([^\s;\\]+)", lock.read_text(), re.M))
    except OSError as error:
        return CheckResult("versions", "warn", f"{lock}: {error.strerror}", "run from the root of the project")
    differing = [f"{name} {found or 'absent'} instead of {pin}" for name, pin in pins.items() if (found := installed(name)) != pin]
    if differing:
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        return CheckResult("versions", "warn", f"{', '.join(differing[:3])}{more}", f"'make reproduce' or pip installs {lock}")
    return CheckResult("versions", "pass", f"all {len(pins)} as in {lock}")


def lock_of_this_machine() -> Path:
    """Lock that belongs to the installed torch."""
    return LOCKS / ("run-cpu.txt" if (installed("torch") or "").endswith("+cpu") else "run-cuda.txt")


def installed(name: str) -> str | None:
    """Version of an installed distribution, or none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def answer_lines(*command: str) -> list[str]:
    """All lines that a program prints; none if it is absent or fails."""
    if answer(*command) is None:
        return []
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL).stdout.splitlines()


def _split(error: InputError) -> tuple[str, str]:
    found, _, fix = str(error).partition("; ")
    return found, fix
