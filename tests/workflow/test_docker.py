"""The image as Docker's users build and start it, with a real daemon of the version that Debian has."""

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from m2mkd.containers.source import source_digest
from tests.conftest import ROOT
from tests.unit.containers.scripts import script
from tests.workflow.conftest import Project
from tests.workflow.docker import Docker, docker_daemon
from tests.workflow.images import missing
from tests.workflow.studies import tables, weights

pytestmark = pytest.mark.container

IMAGE = "localhost/m2mkd:cpu"
USERS = {None: (10001, 10001), "12345:0": (12345, 0), "12346:12346": (12346, 12346)}
"""Who runs an image: its own user, one of those that OpenShift draws, and a person with their own numbers."""
INSTALL = """#!/bin/sh
set -eu
case $1 in
  tools) touch tool ;;
  environment) mkdir -p /opt/m2mkd/bin; cp /build/tool /opt/m2mkd/; ln -s /usr/bin/python3 /opt/m2mkd/bin/python ;;
  package) cp -r /build/source /opt/m2mkd/ ;;
esac
"""
ABOUT_USER = """
import getpass, os, pwd
from pathlib import Path
home = Path.home()
Path(home, "kept").write_text("x")
Path("kept").write_text("x")
named = bool(getpass.getuser() and pwd.getpwuid(os.getuid()).pw_name)
print(os.getuid(), os.getgid(), home, Path.cwd(), named, os.access("/opt/m2mkd", os.W_OK))
"""


@pytest.fixture(scope="module")
def docker() -> Iterator[Docker]:
    with docker_daemon() as client:
        yield client


@pytest.fixture(scope="module")
def small_image(docker, tmp_path_factory) -> str:
    """The image that the project's Dockerfile makes by the project's own way of building, with Python alone in place of the environment."""
    build, context = script("build"), tmp_path_factory.mktemp("context")
    base = os.environ.get("BASE_IMAGE") or missing("a base without a registry; 'make standin' makes it, and env.sh beside it names it")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        build.lay_out(context)
        (context / "containers/install.sh").write_text(INSTALL)
        docker.take(base)
        facts = build.provenance("cpu", "docker", base)
        for name, value in (docker.environment | {"ENGINE_ARGUMENTS": "--network=host"}).items():
            patch.setenv(name, value)
        patch.setenv("DOCKER_BUILDKIT", "0")
        # The archive goes beside what it is made from, and the project's lock has no row of it.
        patch.chdir(context)
        patch.setattr(build, "note", lambda *row: None)
        patch.setattr(build, "tag", lambda accelerator: f"localhost/small:{accelerator}")
        build.build_with_engine("docker", "cpu", context, facts)
    return "localhost/small:cpu"


@pytest.fixture(scope="module")
def image(docker) -> str:
    """The image for the CPU, which must hold the package as it is now."""
    docker.take(IMAGE)
    source = docker("image", "inspect", "--format", '{{index .Config.Labels "org.m2mkd.source"}}', IMAGE).stdout.strip()
    if source != source_digest(ROOT / "m2mkd"):
        missing(f"{IMAGE} holds another m2mkd; 'make standin-image' makes it again")
    return IMAGE


@pytest.mark.parametrize("user", USERS)
def test_every_user_has_a_name_and_a_home_and_may_not_change_the_image(docker, small_image, user):
    found = docker.run(small_image, "python", "-c", ABOUT_USER, user=user).stdout.split()
    uid, gid = USERS[user]
    assert found == [str(uid), str(gid), "/home/m2mkd", "/workspace", "True", "False"]


def test_the_image_s_own_user_is_called_as_the_project(docker, small_image):
    assert docker.run(small_image, "id", "-un").stdout == "m2mkd\n"
    assert docker.run(small_image, "stat", "-c", "%g %A", "/home/m2mkd", "/workspace").stdout.split() == ["0", "drwxrwxrwt"] * 2


def test_parts_that_a_build_lends_to_a_step_are_not_in_the_image(docker, small_image):
    """What only a bind mount of BuildKit gives: the tool was copied from a stage that the image does not contain."""
    assert docker.run(small_image, "ls", "/opt/m2mkd").stdout.split() == ["bin", "source", "tool"]
    assert docker.run(small_image, "sh", "-c", "ls -A /build 2>/dev/null | wc -l").stdout.strip() == "0"


@pytest.mark.parametrize("user", [None, "12345:0"])
def test_the_workflow_in_a_bound_project_comes_to_the_bits_of_the_host(docker, image, finished, tmp_path, user):
    root, (uid, gid) = tmp_path / "project", USERS[user]
    # Runs name their commit, so it must be the same one.
    subprocess.run(["git", "clone", "-q", finished.root, root], check=True)
    for path in [root, *root.rglob("*")]:
        shutil.chown(path, uid, gid) if not path.is_symlink() else os.lchown(path, uid, gid)
    bound = ("--volume", f"{root}:/workspace", "--shm-size=1g")
    docker.run(image, "snakemake", "--cores", "all", "--config", "scale=smoke", user=user, options=bound)
    project = Project(root, "smoke")
    assert tables(project) == tables(finished)
    assert weights(project) == weights(finished)
    assert {path.stat().st_uid for path in (root / "results").rglob("*")} == {uid}
