"""The image that ``config/config.yaml`` names, made ready for Apptainer; one line with the fix if that fails."""

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from m2mkd.config.experiment import Settings
from m2mkd.containers.inside import DIGEST
from m2mkd.errors import InputError
from m2mkd.files import sha256, write_text

HOST = "none"
"""Value that means the host instead of an image."""
ARCHIVES = ("docker-archive:", "oci-archive:")
"""Prefixes of archives, as saved by Docker and by Podman."""
SQUASH = ("--mksquashfs-args", "-comp zstd -Xcompression-level 1")
"""Packing of a SIF: within a few percent of gzip's size, in a fifth of its time."""
CONVERTED = Path(".snakemake/images")
"""Cache of SIFs made from archives, and of the digests of images."""
MACHINE = ("M2MKD_DEVICE", "M2MKD_WORKERS", "M2MKD_RANKS", "M2MKD_DEVICE_BATCH", "M2MKD_COMPILE")
TRACKING = ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
FOLDERS = ("M2MKD_DATA_SOURCE", "MLFLOW_ARTIFACTS_DESTINATION")
HANDED_ON = (*MACHINE, *TRACKING, *FOLDERS, "CUDA_VISIBLE_DEVICES")
"""Variables passed to a job; the rest of the host's environment stays outside."""


def runtime() -> str:
    """Path of the program that runs SIFs.

    Raises
    ------
    InputError
        If neither Apptainer nor Singularity is installed.
    """
    found = next((name for name in ("apptainer", "singularity") if shutil.which(name)), None)
    if found is None:
        raise InputError(
            "neither apptainer nor singularity is on the PATH, which --use-singularity needs; install Apptainer "
            "('make standin' does on Debian), or add --config container=none to run on the host"
        )
    return found


def named_image(settings: Settings) -> str | None:
    """Image that the settings name, in the form that Snakemake takes; none: the host.

    Raises
    ------
    InputError
        If it is not a .sif, an archive or a URL that is pinned by its digest.
    """
    image = settings.container
    if image == HOST:
        return None
    # Snakemake puts it unquoted into a shell command, and Apptainer ends the path of an archive at a colon.
    archived = image.startswith(ARCHIVES)
    if re.search(r"[^\w@%+=:,./-]", image) or (archived and ":" in str(archive_file(image))):
        raise InputError(
            f"container: '{image}' has a blank or a quote, or a character that is special to the shell or Apptainer; rename the image"
        )
    if "://" in image and not archived:
        if not re.search(r"@sha256:[0-9a-f]{64}$", image):
            raise InputError(f"container: {image} is not pinned; end it with @sha256: and the 64 digits of its digest")
        return image
    if image in ARCHIVES or not (archived or image.endswith(".sif")):
        raise InputError(
            f"container: '{image}' is not an image; give a .sif, {' or '.join(f'{form}FILE' for form in ARCHIVES)}, "
            "a URL that ends in @sha256:DIGEST, or none for the host"
        )
    return str(_converted(archive_file(image))) if archived else image


def archive_file(image: str) -> Path:
    """Path of an archive, from its name with the prefix."""
    return Path(image.partition(":")[2])


def _converted(archive: Path) -> Path:
    """Path of the SIF of an archive. A changed archive gets another SIF; Snakemake's own cache would keep the first."""
    return CONVERTED / f"{_state(archive) if archive.exists() else 'absent'}.sif"


def _state(file: Path) -> str:
    """Short name for the present state of a file, made without reading it."""
    found = file.stat()
    return hashlib.sha256(f"{file.resolve()}\0{found.st_size}\0{found.st_mtime_ns}".encode()).hexdigest()[:16]


def image_digest(image: str) -> str:
    """Digest of an image, ``sha256:`` and 64 digits: a URL ends in it, and that of a file is computed once.

    Parameters
    ----------
    image
        A .sif that exists, or a pinned URL, as :func:`prepared_image` returns them.
    """
    if "://" in image:
        return image.rpartition("@")[2]
    known = CONVERTED / f"{_state(Path(image))}.sha256"
    if not known.is_file():
        write_text(known, f"sha256:{sha256(Path(image))}")
    return known.read_text()


def prepared_image(settings: Settings) -> str | None:
    """Image in which jobs are known to start; an archive is converted first.

    Raises
    ------
    InputError
        If Apptainer or the image is missing, or the conversion fails.
    """
    image = named_image(settings)
    if image is None:
        sys.stderr.write("container: none, so every job runs on the host\n")
        return None
    program = runtime()
    if settings.container.startswith(ARCHIVES):
        _convert(program, settings.container, Path(image))
    elif "://" not in image and not Path(image).is_file():
        target = "image-cuda" if "cuda" in Path(image).name else "image-cpu"
        raise InputError(f"container: {image} does not exist; 'make {target}' makes it, or add --config container=none to run on the host")
    return image


def _convert(program: str, named: str, image: Path) -> None:
    archive = archive_file(named)
    if not archive.is_file():
        raise InputError(
            f"container: the archive {archive} does not exist; 'make image-cpu' makes containers/m2mkd-cpu.tar, or name another"
        )
    if image.is_file():
        return
    image.parent.mkdir(parents=True, exist_ok=True)
    temporary = image.with_suffix(f".{os.getpid()}.sif")
    form = named.partition(":")[0]
    sys.stderr.write(f"container: converting {archive}\n")
    command = [program, "build", *SQUASH, str(temporary), f"{form}:{archive}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise InputError(f"container: {archive} cannot be converted ({_reason(done.stderr)}); make it again with 'make image-cpu'")
        temporary.replace(image)
    finally:
        temporary.unlink(missing_ok=True)


def bind(folders: tuple[str, ...]) -> str:
    """Folders of the host for Apptainer's own variable of binds.

    Raises
    ------
    InputError
        If one is missing, or its name has a character that is special to Apptainer.
    """
    bound = []
    for folder in folders:
        source, _, rest = folder.partition(":")
        if "," in folder or rest.count(":") > 1:
            raise InputError(f"binds: '{folder}' has a comma or too many colons, which Apptainer cannot take; bind the folder above")
        if not Path(source).exists():
            raise InputError(f"binds: {source} does not exist; make it, or remove it from binds in config/config.yaml")
        target, _, option = rest.partition(":")
        if (target and not target.startswith("/")) or option not in ("", "ro", "rw"):
            raise InputError(f"binds: '{folder}' is not FOLDER, FOLDER:/TARGET or FOLDER:/TARGET:ro; correct it in config/config.yaml")
        real = str(Path(source).resolve())
        if re.search("[,:]", real):
            raise InputError(f"binds: {source} leads to '{real}', whose comma or colon Apptainer cannot take; rename that folder")
        bound.append(f"{real}:{rest or Path(source).absolute()}")
    return ",".join(bound)


def _start(image: str, bound: str) -> None:
    """Start a short command in an image file, so that a fault shows once and not in every job."""
    if "://" in image:
        return
    words = [word for part in bound.split(",") if part for word in ("--bind", part)]
    done = subprocess.run([runtime(), "exec", "--cleanenv", *words, image, "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(
            f"container: nothing starts in {image} ({_reason(done.stderr)}); make the image again with 'make image-cpu', or correct binds"
        )


def _reason(printed: str) -> str:
    return (printed.strip().splitlines() or ["no reason given"])[-1]


def for_workflow(settings: Settings, threads: int, *, enter: bool) -> dict[str, Any]:
    """Facts that the workflow needs to run its jobs in the image.

    Parameters
    ----------
    settings
        ``container`` and ``binds``.
    threads
        Threads of each job; set for the libraries in the image, because the host's environment stays outside.
    enter
        True if jobs run in it; otherwise it is only named.

    Returns
    -------
    dict
        ``image`` (or none), ``environment`` (variables for Snakemake's own process), ``prefix`` (first command of each job's shell).
    """
    if not enter:
        return {"image": named_image(settings), "environment": {}, "prefix": None}
    image = prepared_image(settings)
    if image is None:
        return {"image": None, "environment": {}, "prefix": None}
    handed = {name: os.environ[name] for name in HANDED_ON if name in os.environ}
    handed |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    handed[DIGEST] = image_digest(image)
    tool = runtime().upper()
    environment = {f"{tool}ENV_{name}": value for name, value in handed.items()}
    # A job on a cluster reads this again, with what was added before it was sent there.
    bound = ",".join(dict.fromkeys(part for part in f"{os.environ.get(f'{tool}_BIND', '')},{bind(settings.binds)}".split(",") if part))
    _start(image, bound)
    # Exported by the job's shell, because a variable of the environment would be lost in a job that is outside the image by mistake.
    return {
        "image": image,
        "environment": environment | ({f"{tool}_BIND": bound} if bound else {}),
        "prefix": f"set -euo pipefail; export M2MKD_CONTAINER={shlex.quote(image)};",
    }
