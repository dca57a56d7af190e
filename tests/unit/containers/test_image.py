"""How the workflow gets into an image; whole runs in one are in tests/workflow/test_containers.py."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from m2mkd.config.experiment import Settings
from m2mkd.containers import image
from m2mkd.errors import InputError

PINNED = f"docker://registry.example/m2mkd@sha256:{'0123456789abcdef' * 4}"


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("m2mkd", "is not an image"),
        ("docker-archive:", "is not an image"),
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
    with pytest.raises(InputError, match=f"m2mkd-{accelerator}.sif does not exist; 'make image-{accelerator}' makes it"):
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
    with pytest.raises(InputError, match=r"an\.tar does not exist"):
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
    with pytest.raises(InputError, match="not FOLDER, FOLDER:/TARGET or FOLDER:/TARGET:ro"):
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
    with pytest.raises(InputError, match="data root does not exist"):
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
    of = {text: f"sha256:{hashlib.sha256(text.encode()).hexdigest()}" for text in ("1", "22")}
    Path("a.sif").write_text("1")
    os.utime("a.sif", (1, 1))
    assert image.image_digest("a.sif") == of["1"]
    Path("a.sif").write_text("2")
    os.utime("a.sif", (1, 1))
    assert image.image_digest("a.sif") == of["1"], "nothing says that it has changed"
    Path("a.sif").write_text("22")
    assert image.image_digest("a.sif") == of["22"]
