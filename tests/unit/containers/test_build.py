"""What images are built from; whole builds are in tests/workflow/test_containers.py."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from m2mkd.containers.source import PACKAGE, project_files, source_digest
from tests.unit.containers.scripts import CONTAINERS, script

DOCKERFILE = (CONTAINERS / "Dockerfile").read_text()
DEFINITION = (CONTAINERS / "m2mkd-debootstrap.def").read_text()
build = script("build")


def test_every_stage_starts_from_the_base_that_is_an_argument():
    lines = [line for line in DOCKERFILE.splitlines() if not line.startswith("#")]
    assert lines[0].startswith("ARG BASE_IMAGE=")
    stages: set[str] = set()
    for line in lines:
        if found := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            assert found[1] in stages | {"${BASE_IMAGE}"}
            stages.add(found[2])
        assert not line.startswith("FROM") or found
    assert {"cpu", "cuda"} <= stages
    # Such a line makes the builder fetch a program from a registry.
    assert "# syntax=" not in DOCKERFILE


@pytest.mark.parametrize("accelerator", ["cpu", "cuda"])
def test_images_install_the_hashed_lock_and_nothing_else(accelerator):
    install = (CONTAINERS / "install.sh").read_text()
    assert f"/build/install.sh environment {accelerator}\n" in DOCKERFILE
    assert "/build/install.sh environment {{ ACCELERATOR }}" in DEFINITION
    assert "pip install" not in DOCKERFILE + DEFINITION
    installing = [line for line in install.splitlines() if re.search(r"^\s.*(pip install|\$install)\b", line)]
    assert len(installing) == 4
    assert all("--require-hashes -r" in line or "--no-deps --no-build-isolation ./source" in line for line in installing)
    lock = (CONTAINERS / "locks" / f"run-{accelerator}.txt").read_text()
    pins = re.findall(r"^\S+==\S+ \\\n    --hash=sha256:", lock, re.M)
    assert len(pins) == len(re.findall(r"^[a-zA-Z]", lock, re.M)) > 150


def test_images_run_as_a_numeric_user_under_an_init_and_carry_labels():
    runtime = DOCKERFILE[DOCKERFILE.index("AS runtime") :]
    targets = re.findall(r"^FROM runtime AS (\w+)\n(.*?)(?=^FROM|\Z)", DOCKERFILE, re.M | re.S)
    assert {name for name, steps in targets if re.search(r"^USER [1-9]\d*:[1-9]\d*\n+\Z", steps, re.M)} == {"cpu", "cuda"}
    assert 'ENTRYPOINT ["/usr/bin/tini", "-g", "--"]' in runtime
    for label in ("title", "description", "licenses", "revision", "version", "created"):
        assert f"org.opencontainers.image.{label}" in runtime
        assert f"org.opencontainers.image.{label}" in DEFINITION
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in runtime


def test_both_ways_to_an_image_set_the_same_environment():
    block = re.search(r"^ENV (.*?)(?=^\w)", DOCKERFILE, re.M | re.S)[1]
    of_dockerfile = set(block.replace("\\\n", " ").split())
    block = re.search(r"^%environment\n(.*?)(?=^%)", DEFINITION, re.M | re.S)[1]
    assert set(block.replace("export", "").split()) == of_dockerfile


def test_an_archive_inside_another_repository_has_no_revision(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in ("init -q", "-c user.name=t -c user.email=t@localhost commit -qm x --allow-empty"):
        subprocess.run(["git", *command.split()], check=True)
    assert build.git("rev-parse", "HEAD")
    Path("project").mkdir()
    monkeypatch.chdir("project")
    assert build.git("rev-parse", "HEAD") == ""
    Path(".gitignore").write_text("made/\n")
    Path("made").mkdir()
    for name in ("source.py", "made/result"):
        Path(name).touch()
    assert project_files(Path()) == [".gitignore", "source.py"]


def test_a_build_sees_what_it_copies_and_no_data_history_or_cache(tmp_path):
    facts = build.provenance("cuda", "podman", "base")
    assert build.lay_out(tmp_path) == source_digest(tmp_path)
    build.complete(tmp_path, "cuda", facts)
    seen = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    allowed = r"(m2mkd/.*|containers/([^/]+|locks/.*)|config/models.yaml|pyproject.toml|README.md|LICENSE)"
    assert [name for name in seen if not re.fullmatch(allowed, name)] == []
    assert [name for name in seen if re.search(r"\.git/|__pycache__|\.(sif|tar|npy|tif|png|safetensors|db)$", name)] == []
    assert source_digest(tmp_path / "m2mkd") == facts["source"] == source_digest(PACKAGE)
    allowed_by_docker = [line[1:] for line in (CONTAINERS / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")]
    assert (CONTAINERS / "Dockerfile.dockerignore").read_text().count("\n*\n") == 1
    for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.M):
        for source in line.split():
            # Brackets make a pattern of a name that need not be there.
            name = source.replace("[", "").replace("]", "")
            assert name in allowed_by_docker
            assert "[" in source or (tmp_path / name).exists()


def test_a_wheel_that_no_registry_has_is_asked_of_pip_and_missed_in_one_line(tmp_path, monkeypatch):
    assert [name.partition("==")[0] for name in build.local_versions((CONTAINERS / "locks/run-cpu.txt").read_text())] == ["torch"]
    assert build.local_versions((CONTAINERS / "locks/run-cuda.txt").read_text()) == []
    monkeypatch.setattr(build, "local_versions", lambda lock: ["m2mkd-no-such-wheel==1+cpu"])
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.setenv(name, tmp_path.as_uri())
    (tmp_path / "containers").mkdir()
    with pytest.raises(build.BuildError, match="set PIP_FIND_LINKS"):
        build.complete(tmp_path, "cpu", {})


def test_an_image_is_built_again_only_if_what_decides_it_has_changed(program, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "CONTAINERS", tmp_path)
    facts = {"context": "c", "base": "b", "locks": {"run-cpu.txt": "l"}, "created": "today"}
    before = json.dumps(facts | {"created": "yesterday"})
    program("podman", f"echo '{before}'")
    assert not build.is_current("cpu", "podman", facts)  # no archive of it
    (tmp_path / "m2mkd-cpu.tar").touch()
    assert build.is_current("cpu", "podman", facts)
    for part in build.DECISIVE:
        assert not build.is_current("cpu", "podman", facts | {part: "another"})
    labels = json.dumps({"data": {"attributes": {"labels": {build.LABEL: before}}}})
    program("apptainer", f"cat <<'LABELS'\n{labels}\nLABELS")
    assert not build.is_current("cpu", "podman", facts)  # no SIF
    (tmp_path / "m2mkd-cpu.sif").touch()
    assert build.is_current("cpu", "podman", facts) and build.is_current("cpu", "apptainer", facts)
    assert not build.is_current("cpu", "apptainer", facts | {"context": "another"})
    program("podman", "exit 1")
    assert not build.is_current("cpu", "podman", facts)


def test_an_archive_is_there_whole_or_not_at_all_and_knows_its_name(program, tmp_path, monkeypatch):
    facts = dict.fromkeys(("base", "revision", "changed", "version", "created", "source"), "") | {"locks": {"run-cpu.txt": ""}}
    monkeypatch.setattr(build, "CONTAINERS", tmp_path)
    monkeypatch.setattr(build, "note", lambda *row: None)
    save = 'for last; do :; done; echo "$@" >> "$0.calls"; file=${last#oci-archive:}; echo half > "${file%%:*}"'
    program("podman", f'[ "$1" != push ] || {{ {save}; exit 125; }}')
    with pytest.raises(build.BuildError, match="podman push"):
        build.build_with_engine("podman", "cpu", tmp_path, facts)
    assert not (tmp_path / "m2mkd-cpu.tar").exists()
    program("podman", f'[ "$1" != push ] || {{ {save}; }}')
    assert build.build_with_engine("podman", "cpu", tmp_path, facts).is_file()
    call = (tmp_path / "bin/podman.calls").read_text().splitlines()[-1]
    assert call == f"push -q --compression-format zstd localhost/m2mkd:cpu oci-archive:{tmp_path}/.m2mkd-cpu.tar:localhost/m2mkd:cpu"


def test_what_a_build_notes_down_does_not_count_as_a_change_of_it():
    seen = build.in_context()
    assert {"m2mkd", "containers/locks", "containers/Dockerfile", "containers/m2mkd-debootstrap.def"} <= set(seen)
    assert not any("containers/images.lock".startswith(name) for name in seen)


def test_an_engine_that_does_not_answer_is_not_taken(program):
    program("docker", "exit 1")
    with pytest.raises(build.BuildError, match=r"no engine answers.*make standin"):
        build.find_engine(None)
    program("podman", "exit 0")
    assert build.find_engine(None) == "podman"
    with pytest.raises(build.BuildError, match="docker does not answer"):
        build.find_engine("docker")
    with pytest.raises(build.BuildError, match="ENGINE=lxc is none of"):
        build.find_engine("lxc")


def test_digests_are_written_down_when_they_are_known_and_otherwise_empty(tmp_path, monkeypatch, capsys):
    committed = build.read_lock((CONTAINERS / "images.lock").read_text())
    assert all(re.fullmatch(r"(sha256:[0-9a-f]{64})?", digest) for digest, _, _ in committed.values())
    lock = tmp_path / "images.lock"
    lock.write_text("# comment\ndebian:bookworm-slim\t\t\t\n")
    monkeypatch.setattr(build, "IMAGES_LOCK", lock)
    assert build.default_base() == "debian:bookworm-slim"
    assert capsys.readouterr().err.startswith("unlocked: debian:bookworm-slim")
    build.note("debian:bookworm-slim", "sha256:12", "")
    assert build.default_base() == "debian:bookworm-slim@sha256:12"
    assert lock.read_text().startswith("# comment\ndebian:bookworm-slim\tsha256:12\t20")


def test_services_keep_to_this_machine_and_hold_no_password():
    compose = yaml.safe_load((CONTAINERS / "compose.yaml").read_text())
    assert set(compose["services"]) == {"database", "mlflow"}
    assert compose["services"]["mlflow"]["ports"] == ["127.0.0.1:${MLFLOW_PORT:-5000}:5000"]
    assert compose["services"]["database"]["environment"]["POSTGRES_PASSWORD"].startswith("${M2MKD_DB_PASSWORD:?")
    assert build.read_lock((CONTAINERS / "images.lock").read_text()).keys() >= {"postgres:17-bookworm", "debian:bookworm-slim"}
