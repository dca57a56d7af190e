"""Databases and servers that tests start on loopback, and stop again."""

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import ROOT

BIN = Path(sys.executable).parent
PATIENCE = 120
"""Seconds until a server must answer."""


def need(found: object, message: str) -> None:
    """Skip where ``found`` is nothing; fail where everything is required."""
    if not found:
        (pytest.fail if os.environ.get("M2MKD_REQUIRE") == "all" else pytest.skip)(message)


def free_port() -> int:
    """A port of loopback that nobody listens to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class MlflowServer:
    """An MLflow server on a database, which can be stopped and started again at the same address."""

    def __init__(self, folder: Path, store: str):
        self.folder, self.store, self.port = folder, store, free_port()
        self.process: subprocess.Popen | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Return when it answers."""
        command = [str(BIN / "mlflow"), "server", "--backend-store-uri", self.store, "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--artifacts-destination", str(self.folder / "mlruns"), "--workers", "1"]
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"} | quiet
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        patience = time.monotonic() + PATIENCE
        while time.monotonic() < patience and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.2)
        pytest.fail(f"the server does not answer: {(self.folder / 'server.log').read_text()[-3000:]}")

    def stop(self) -> None:
        """Kill it with all its processes, as a power cut would."""
        if self.process is not None:
            os.killpg(self.process.pid, 9)
            self.process.wait()
        self.process = None


@contextmanager
def mlflow_server(folder: Path, store: str) -> Iterator[MlflowServer]:
    """A server that runs, and is stopped at the end."""
    server = MlflowServer(folder, store)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextmanager
def mlflow_ui(folder: Path) -> Iterator[list[str]]:
    """``m2mkd mlflow-ui`` in a project; gives the lines that it prints, and interrupts it at the end as Ctrl-C does."""
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "m2mkd", "mlflow-ui", "--port", str(free_port())]
    with (folder / "ui.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True, env=environment, start_new_session=True
        )
    assert process.stdout is not None
    lines: list[str] = []
    try:
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if "until Ctrl-C" in line:
                break
        else:
            pytest.fail(f"the server does not answer: {(folder / 'ui.log').read_text()[-3000:]}")
        yield lines
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        assert process.wait(PATIENCE) == 0
        process.stdout.close()


def _postgresql() -> Path:
    """Folder of the server's programs; Debian's package is installed where it is missing and this user may."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found and os.geteuid() == 0 and shutil.which("apt-get"):
        # Debian would start a cluster of its own.
        common = Path("/etc/postgresql-common/createcluster.conf")
        common.parent.mkdir(exist_ok=True)
        if not common.exists():
            common.write_text("create_main_cluster = false\n")
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        install = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", "-o", "Dpkg::Options::=--force-confold", "postgresql"]
        for command in (["apt-get", "update", "-qq"], install):
            subprocess.run(command, check=False, capture_output=True, env=environment)
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    need(found, "no PostgreSQL; on Debian: apt-get install -y postgresql")
    return found[-1].parent


@contextmanager
def postgresql() -> Iterator[str]:
    """A fresh cluster on loopback, by a user without privileges; gives the address of an empty database with its password."""
    programs, port, password = _postgresql(), free_port(), secrets.token_hex(8)
    root = os.geteuid() == 0
    user = "postgres" if root else getpass.getuser()
    as_user = ["setpriv", "--reuid", user, "--regid", user, "--clear-groups"] if root else []

    def run(*command: str) -> None:
        done = subprocess.run([*as_user, *command], cwd=folder, stdout=out, stderr=out, check=False)
        assert done.returncode == 0, f"{command[0]}: {Path(out.name).read_text()}"

    # Not below pytest's own folder, which no other user may enter.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, tempfile.NamedTemporaryFile("w+") as out:
        word, data = Path(folder, "password"), f"{folder}/cluster"
        word.write_text(password)
        if root:
            shutil.chown(folder, user, user)
            shutil.chown(word, user, user)
        run(str(programs / "initdb"), "-D", data, "-U", "m2mkd", "--auth=scram-sha-256", f"--pwfile={word}", "--no-sync")
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories='' -c fsync=off"
        control = [str(programs / "pg_ctl"), "-D", data, "-w", "-t", str(PATIENCE)]
        run(*control, "-l", f"{folder}/log", "-o", options, "start")
        try:
            yield f"postgresql://m2mkd:{password}@127.0.0.1:{port}/postgres"
        finally:
            run(*control, "-m", "immediate", "stop")
