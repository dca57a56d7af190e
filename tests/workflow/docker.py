"""A Docker daemon that tests start for themselves, and stop again."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import ROOT
from tests.workflow.images import missing
from tests.workflow.servers import PATIENCE, need

CLIENT = Path("/usr/bin/docker")
"""Debian's, which knows BuildKit by itself; newer ones want a plug-in for it."""


class Docker:
    """The client of one daemon."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "bin").mkdir()
        (folder / "bin/docker").symlink_to(CLIENT)

    @property
    def environment(self) -> dict[str, str]:
        """Variables for programs that call docker by its name."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("DOCKER_")}
        return inherited | {"DOCKER_HOST": f"unix://{self.folder}/socket", "PATH": f"{self.folder}/bin:{os.environ['PATH']}"}

    def __call__(self, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command of docker; its failure fails the test with what it printed."""
        done = subprocess.run([CLIENT, *arguments], env=self.environment, capture_output=True, text=True, check=False)
        assert not (check and done.returncode), f"docker {arguments}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
        return done

    def run(self, tag: str, *command: str, user: str | None = None, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """Run a command in an image without a network, as a user if it is not the image's own."""
        as_user = ("--user", user) if user else ()
        return self("run", "--rm", "--network=none", *as_user, *options, tag, *command)

    def has(self, tag: str) -> bool:
        return self("image", "inspect", tag, check=False).returncode == 0

    def take(self, tag: str) -> None:
        """Have an image that `make image-cpu` or `make standin` made: Docker's own archive of it, or out of Podman's store."""
        archive = ROOT / "containers" / f"m2mkd-{tag.rpartition(':')[2]}.tar"
        if archive.is_file() and self("load", "--quiet", "--input", archive, check=False).returncode == 0 and self.has(tag):
            return
        exported = self.folder / "image.tar"
        # Podman's own archives have compressed layers in a form that Docker before 25 does not read.
        saving = ["podman", "save", "--quiet", "--format", "docker-archive", "--output", exported, tag]
        if not shutil.which("podman") or subprocess.run(saving, capture_output=True, check=False).returncode:
            missing(f"there is no {tag}; 'make standin-image' makes it")
        self("load", "--quiet", "--input", exported)
        exported.unlink()


def _installed() -> bool:
    """Whether Docker is there; Debian's package is installed where it is missing and this user may."""
    if os.geteuid() != 0:
        return False
    if not shutil.which("dockerd") and shutil.which("apt-get"):
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update", "-qq"], ["install", "-qq", "-y", "--no-install-recommends", "docker.io"]):
            subprocess.run(["apt-get", *command], check=False, capture_output=True, env=environment)
    return bool(shutil.which("dockerd")) and CLIENT.is_file()


@contextmanager
def docker_daemon() -> Iterator[Docker]:
    """A daemon with a store of its own, and without bridges or rules of a firewall, which would change this machine."""
    need(_installed(), "no Docker, or not root; on Debian: apt-get install -y docker.io")
    # Not below pytest's own folder: the name of a socket is short.
    with tempfile.TemporaryDirectory(prefix="docker-", ignore_cleanup_errors=True) as folder:
        docker = Docker(Path(folder))
        places = ["--data-root", f"{folder}/store", "--exec-root", f"{folder}/run", "--pidfile", f"{folder}/pid"]
        command = ["dockerd", *places, "--host", f"unix://{folder}/socket", "--iptables=false", "--bridge=none"]
        with Path(folder, "log").open("wb") as log:
            daemon = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            patience = time.monotonic() + PATIENCE
            while docker("info", check=False).returncode:
                assert time.monotonic() < patience and daemon.poll() is None, Path(folder, "log").read_text()[-3000:]
                time.sleep(0.2)
            yield docker
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(PATIENCE)
