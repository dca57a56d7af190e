"""``m2mkd mlflow-ui``: MLflow's pages on the store of this project, with the addresses of those that people open first."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator

from m2mkd.errors import InputError
from m2mkd.tracking.address import DATABASE, DEFAULT_URI, QUIET, URI_VARIABLE, artifact_folder, is_database, store_uri, without_credentials
from m2mkd.tracking.store import connected
from m2mkd.tracking.views import curves_address, rows_address

LOOPBACK = "127.0.0.1"
PATIENCE_S = 600
"""Seconds until the server must answer."""
NO_WORKERS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_ENABLE_AI_GATEWAY": "false"}
"""Switches off what the server starts and shows for language models."""


def serve(port: int, say: Callable[[str], None]) -> int:
    """Print the addresses of the studies in the store and serve its pages until interrupted; a server that is there is not started.

    Parameters
    ----------
    port
        Port of this machine to serve a database at.
    say
        Takes each line for the person.

    Returns
    -------
    int
        Exit status of the server.

    Raises
    ------
    InputError
        If the store is empty or cannot be used, the port is taken, or the server does not answer.
    """
    uri = store_uri()
    if uri == DEFAULT_URI and not DATABASE.is_file():
        raise InputError(f"{DATABASE}: absent; run 'make reproduce', or 'm2mkd track sync' if the study has finished")
    server = f"http://{LOOPBACK}:{port}" if is_database(uri) else uri.rstrip("/")
    lines = list(addresses(server))
    if not is_database(uri):
        say("\n".join(lines))
        return 0
    _require_free(port)
    process = _start(uri, port)
    previous = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        _wait_for(server, process)
        say("\n".join([*lines, f"MLflow serves {without_credentials(uri)} at {server} until Ctrl-C"]))
        return process.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        process.terminate()  # Ctrl-C reached it too
        process.wait()
        signal.signal(signal.SIGTERM, previous)


def addresses(server: str) -> Iterator[str]:
    """Lines that name each scale in the store and the pages to open of it, the scale exported last first.

    Parameters
    ----------
    server
        Address of the server, without a slash at its end.
    """
    with connected() as client:
        experiments = client.search_experiments(filter_string="name LIKE 'm2mkd/%'", order_by=["last_update_time DESC"])
        if not experiments:
            raise InputError(f"MLflow store {without_credentials(store_uri())}: has no study; run 'm2mkd track sync'")
        for experiment in experiments:
            yield experiment.name
            yield f"  rows by accuracy                      {rows_address(server, experiment)}"
            if curves := curves_address(server, experiment):
                yield f"  end to end against m2mKD over epochs  {curves}"


def _start(uri: str, port: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(port), "--workers", "1"]
    environment = os.environ | QUIET | NO_WORKERS
    environment.pop(URI_VARIABLE, None)
    # Not among the arguments, which other users can read: the address of a database may hold a password.
    environment["MLFLOW_BACKEND_STORE_URI"] = uri
    options = ["--artifacts-destination", str(artifact_folder()), "--uvicorn-opts", "--no-access-log"]
    return subprocess.Popen([*command, *options], env=environment)


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except (OSError, OverflowError):
            raise InputError(f"port {port} of {LOOPBACK} is taken; give another: make mlflow-ui PORT=5001") from None


def _wait_for(server: str, process: "subprocess.Popen[bytes]") -> None:
    patience = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < patience:
        try:
            with urllib.request.urlopen(f"{server}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise InputError(f"MLflow server at {server}: does not answer; its messages are above")
