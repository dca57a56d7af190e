"""What images are built from and how the workflow gets into them; whole runs in one are in tests/workflow/test_containers.py."""

import hashlib
import importlib.util
import json
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from m2mkd.config.experiment import Settings
from m2mkd.containers import image, inside
from m2mkd.containers.source import PACKAGE, source_digest
from m2mkd.errors import InputError
from tests.conftest import ROOT

CONTAINERS = ROOT / "containers"
DOCKERFILE = (CONTAINERS / "Dockerfile").read_text()
DEFINITION = (CONTAINERS / "m2mkd-debootstrap.def").read_text()
PINNED = f"docker://registry.example/m2mkd@sha256:{'0123456789abcdef' * 4}"


def script(name: str):
    """A script of containers/ as a module."""
    spec = importlib.util.spec_from_file_location(f"containers_{name}", CONTAINERS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build, licences = script("build"), script("licences")


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts a shell script on the PATH, which then has nothing else but what a shell needs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "cat", "touch", "sed"):
        (folder / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", str(folder))

    def put(name: str, body: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)

    return put


# --- what images are built from ---


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


@pytest.mark.parametrize(
    ("expression", "accepted"),
    [("MIT", True), ("GPL-3.0-only", False), ("MIT OR GPL-3.0-only", True), ("MIT AND GPL-3.0-only", False),
     ("MPL-2.0 AND (Apache-2.0 OR GPL-3.0-only)", True), ("(MIT OR GPL-3.0-only) AND Nobody-1.0", False),
     ("Apache-2.0 WITH LLVM-exception", True), ("", False)],
)  # fmt: skip
def test_licences_are_accepted_only_if_the_list_has_them(expression, accepted):
    listed, _ = licences.read_list((CONTAINERS / "licences.txt").read_text())
    assert licences.is_accepted(expression, listed) is accepted


def test_a_package_without_a_known_licence_is_named():
    component = {"name": "odd", "version": "1"}
    rows, complaints = licences.collect({"components": [component]}, {"MIT"}, {})
    assert rows == [("odd", "1", "")] and complaints == ["odd 1: no licence in its metadata"]
    assert licences.collect({"components": [component]}, {"MIT"}, {"odd": "MIT"}) == ([("odd", "1", "MIT")], [])
    classified = component | {"licenses": [{"license": {"name": "License :: Odd"}}, {"expression": "MIT"}]}
    assert licences.collect({"components": [classified]}, {"MIT"}, {})[1] == []


def test_services_keep_to_this_machine_and_hold_no_password():
    compose = yaml.safe_load((CONTAINERS / "compose.yaml").read_text())
    assert set(compose["services"]) == {"database", "mlflow"}
    assert compose["services"]["mlflow"]["ports"] == ["127.0.0.1:${MLFLOW_PORT:-5000}:5000"]
    assert compose["services"]["database"]["environment"]["POSTGRES_PASSWORD"].startswith("${M2MKD_DB_PASSWORD:?")
    assert build.read_lock((CONTAINERS / "images.lock").read_text()).keys() >= {"postgres:17-bookworm", "debian:bookworm-slim"}


# --- how the workflow gets into one ---


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("m2mkd", "is no image"),
        ("docker-archive:", "is no image"),
        ("oci-archive:", r"docker-archive:FILE or oci-archive:FILE, a URL"),
        ("docker://m2mkd:latest", "is not pinned"),
        ("my images/a.sif", "blank or a quote"),
        ("a(1).sif", "blank or a quote"),
        ("docker://a{b}@sha256:" + "0" * 64, "blank or a quote"),
        ("oci-archive:a:b.tar", "blank or a quote"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(named, words):
    with pytest.raises(InputError, match=words):
        image.named_image(Settings(container=named))


def test_an_image_is_a_file_a_pinned_url_or_none():
    assert image.named_image(Settings(container="a.sif")) == "a.sif"
    assert image.named_image(Settings(container=PINNED)) == PINNED
    assert image.named_image(Settings(container="none")) is None


def test_without_apptainer_one_line_says_how_to_get_it(program):
    with pytest.raises(InputError, match=r"neither apptainer nor singularity.*make standin.*container=none"):
        image.prepared_image(Settings())


@pytest.mark.parametrize("accelerator", ["cpu", "cuda"])
def test_a_missing_image_names_the_command_that_makes_it(program, accelerator):
    program("apptainer", "exit 1")
    with pytest.raises(InputError, match=f"m2mkd-{accelerator}.sif is not there; 'make image-{accelerator}' makes it"):
        image.prepared_image(Settings(container=f"absent/m2mkd-{accelerator}.sif"))


def test_none_runs_on_the_host_and_says_so(program, capsys):
    found = image.for_workflow(Settings(container="none"), 1, enter=True)
    assert found == {"image": None, "environment": {}, "prefix": None}
    assert capsys.readouterr().err == "container: none, so every job runs on the host\n"


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_a_changed_archive_is_converted_anew_and_an_old_one_is_not(program, tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    settings = Settings(container=f"{form}:an.tar")
    with pytest.raises(InputError, match="neither apptainer"):
        image.prepared_image(settings)
    program("apptainer", 'for last; do before=$target; target=$last; done; echo "$last" >> calls; touch "$before"')
    with pytest.raises(InputError, match=r"an\.tar is not there"):
        image.prepared_image(settings)
    Path("an.tar").write_text("1")
    first = image.prepared_image(settings)
    assert image.prepared_image(settings) == first and Path(first).is_file()
    Path("an.tar").write_text("22")
    assert image.prepared_image(settings) != first
    assert Path("calls").read_text() == f"{form}:an.tar\n" * 2
    program("apptainer", 'for last; do before=$target; target=$last; done; touch "$before"; echo first >&2; echo no space >&2; exit 1')
    Path("an.tar").write_text("333")
    with pytest.raises(InputError, match=r"cannot be converted \(no space\)"):
        image.prepared_image(settings)
    assert len(list(Path(".snakemake/images").iterdir())) == 2


@pytest.mark.parametrize("option", ["data", "/data:xx", "ro"])
def test_a_bind_that_apptainer_would_refuse_in_every_job_is_refused_before(tmp_path, option):
    with pytest.raises(InputError, match="none of FOLDER, FOLDER:/TARGET and FOLDER:/TARGET:ro"):
        image.bind((f"{tmp_path}:{option}",))


def test_an_image_in_which_nothing_starts_is_refused_before_any_job(program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("m2mkd.sif").write_text("no image")
    (tmp_path / "data root").mkdir()
    settings = Settings(container="m2mkd.sif", binds=(str(tmp_path / "data root"),))
    program("apptainer", 'echo "$@" > call; echo first >&2; echo not recognized >&2; exit 255')
    with pytest.raises(InputError, match=r"nothing starts in m2mkd\.sif \(not recognized\)"):
        image.for_workflow(settings, 1, enter=True)
    root = tmp_path / "data root"
    assert Path("call").read_text() == f"exec --cleanenv --bind {root}:{root} m2mkd.sif true\n"


def test_binds_take_blanks_and_refuse_what_apptainer_would_misread(tmp_path):
    folder = tmp_path / "data root, no"
    with pytest.raises(InputError, match="has a comma"):
        image.bind((str(folder),))
    folder = tmp_path / "data root"
    with pytest.raises(InputError, match="data root is not there"):
        image.bind((str(folder),))
    folder.mkdir()
    (tmp_path / "other, root").mkdir()
    (tmp_path / "other").symlink_to(tmp_path / "other, root")
    with pytest.raises(InputError, match=r"leads to '.*other, root', whose comma"):
        image.bind((str(tmp_path / "other"),))
    (tmp_path / "link").symlink_to(folder)
    assert image.bind((str(folder), f"{tmp_path / 'link'}:/data:ro")) == f"{folder}:{folder},{folder}:/data:ro"


def test_jobs_get_binds_threads_and_the_device_and_their_order(program, tmp_path, monkeypatch):
    program("apptainer", "exit 0")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m2mkd.sif").touch()
    handed = ("M2MKD_DEVICE", "M2MKD_DATA_SOURCE", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_ARTIFACTS_DESTINATION", "CUDA_VISIBLE_DEVICES")
    for name in handed:
        monkeypatch.setenv(name, f"of the host's {name}")
    monkeypatch.setenv("APPTAINER_BIND", f"/etc,{tmp_path}:{tmp_path}")
    settings = Settings(container=str(tmp_path / "m2mkd.sif"), binds=(str(tmp_path),))
    found = image.for_workflow(settings, 3, enter=True)
    assert {found["environment"][f"APPTAINERENV_{name}"] for name in handed} == {f"of the host's {name}" for name in handed}
    assert found["environment"]["APPTAINERENV_OMP_NUM_THREADS"] == "3"
    assert found["environment"]["APPTAINERENV_M2MKD_IMAGE_DIGEST"] == f"sha256:{hashlib.sha256().hexdigest()}"
    assert found["environment"]["APPTAINER_BIND"] == f"/etc,{tmp_path}:{tmp_path}"
    command = f"{found['prefix']} echo $M2MKD_CONTAINER; false; echo on"
    done = subprocess.run(["/bin/bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == (f"{tmp_path}/m2mkd.sif\n", 1)
    assert image.for_workflow(settings, 3, enter=False) == {"image": settings.container, "environment": {}, "prefix": None}


def test_the_digest_of_an_image_is_computed_once_for_each_content(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert image.image_digest(PINNED) == PINNED.partition("@")[2]
    Path("a.sif").write_text("1")
    of = {text: f"sha256:{hashlib.sha256(text.encode()).hexdigest()}" for text in ("1", "22")}
    assert image.image_digest("a.sif") == of["1"]
    monkeypatch.setattr(image, "sha256", lambda path: pytest.fail("read again"))
    assert image.image_digest("a.sif") == of["1"]
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    Path("a.sif").write_text("22")
    assert image.image_digest("a.sif") == of["22"]


# --- what a job finds out ---


def test_a_job_that_was_to_run_inside_refuses_to_run_outside(monkeypatch):
    monkeypatch.setenv("M2MKD_CONTAINER", "a.sif")
    for name in ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER"):
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run([Path(sys.executable).with_name("m2mkd"), "runs", "list"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "m2mkd: this job was to run in a.sif and is on the host; run Snakemake with --use-singularity, or with --config container=none\n"
    )


def test_a_job_inside_says_where_it_is_unless_the_image_is_of_other_code(monkeypatch, tmp_path, capsys):
    inside.require_ordered_container()
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("M2MKD_CONTAINER", "a.sif")
    monkeypatch.setenv("APPTAINER_CONTAINER", "/images/a.sif")
    monkeypatch.setattr(inside, "ABOUT", tmp_path)
    with pytest.raises(InputError, match="is on the host"):
        inside.require_ordered_container()
    (tmp_path / "lock.txt").touch()
    inside.require_ordered_container()
    assert re.fullmatch(r"container: /images/a\.sif, root (writable|read-only), uid \d+, revision unknown\n", capsys.readouterr().err)
    monkeypatch.chdir(tmp_path)
    inside.require_ordered_container()
    (tmp_path / "m2mkd").mkdir()
    (tmp_path / "m2mkd" / "new.py").touch()
    with pytest.raises(InputError, match=r"a\.sif holds another m2mkd than this folder; 'make image-cpu'"):
        inside.require_ordered_container()


def test_a_run_records_the_image_by_its_digests(monkeypatch, tmp_path):
    monkeypatch.setattr(inside, "ABOUT", tmp_path)
    assert inside.record() is None
    (tmp_path / "lock.txt").write_text("lock")
    (tmp_path / "sbom.cdx.json").write_text("parts")
    (tmp_path / "provenance.json").write_text('{"name": "m2mkd:cpu", "revision": "abc"}')
    monkeypatch.delenv("APPTAINER_CONTAINER", raising=False)
    found = inside.record()
    assert (found["image"], found["digest"], found["revision"]) == ("m2mkd:cpu", None, "abc")
    monkeypatch.setenv(inside.ORDER, "containers/a.sif")
    monkeypatch.setenv(inside.DIGEST, "sha256:12")
    found = inside.record()
    assert (found["image"], found["digest"]) == ("containers/a.sif", "sha256:12")
    assert found["sbom"] == hashlib.sha256(b"parts").hexdigest() != found["lock"]


def test_the_digest_of_the_package_depends_on_names_and_contents_but_not_on_bytecode(tmp_path):
    (tmp_path / "a.py").write_text("1")
    digests = [source_digest(tmp_path)]
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").touch()
    (tmp_path / ".mypy_cache").mkdir()
    (tmp_path / ".mypy_cache" / "a.json").touch()
    (tmp_path / "a.py").chmod(stat.S_IRUSR)
    assert source_digest(tmp_path) == digests[0]
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    digests.append(source_digest(tmp_path))
    (tmp_path / "b.py").unlink()
    (tmp_path / "b.py").write_text("2")
    digests.append(source_digest(tmp_path))
    assert len(set(digests)) == 3


def test_an_audit_that_asked_nobody_says_so():
    report = {"dependencies": [{"name": "a", "version": "1", "vulns": []}, {"name": "b", "skip_reason": "unknown"}]}
    judge = script("vulnerabilities").judge
    assert judge(report, 2) == (0, ["NOT AUDITED: 1 of 2 packages; the advisory service did not answer for them"])
    report["dependencies"][1] = {"name": "b", "version": "2", "vulns": []}
    assert judge(report, 2)[1] == ["no known vulnerability in 2 packages"]
    report["dependencies"][0]["vulns"] = [{"id": "CVE-1"}]
    assert judge(report, 2) == (1, ["a 1: CVE-1"])


def test_the_forge_calls_targets_that_exist():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    commands = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    called = {target for command in commands for target in re.findall(r"^make ([a-z-]+)", command)}
    before_landing = set(re.findall(r"^make ([a-z-]+)", (ROOT / ".ci/run").read_text(), re.M))
    targets = set(re.findall(r"^([a-z][a-z -]*):(?!=)", (ROOT / "Makefile").read_text(), re.M))
    assert called <= {name for line in targets for name in line.split()}
    assert {"lint", "lock-check", "audit", "test", "containers-check"} <= before_landing <= called
    assert {"reproduce", "image-cpu", "vulnerabilities"} <= called
