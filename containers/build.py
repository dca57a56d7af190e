"""Builds the images: ``build.py cpu|cuda`` with whatever engine is there, ``build.py resolve`` to look digests up. Called by make."""

import argparse
import datetime
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import m2mkd
from m2mkd.containers.image import SQUASH
from m2mkd.containers.source import project_files, source_digest

ROOT = Path(__file__).parents[1]
CONTAINERS = Path("containers")
IMAGES_LOCK = CONTAINERS / "images.lock"
RECIPES = ("containers/Dockerfile", "containers/Dockerfile.dockerignore", "containers/m2mkd.def", "containers/m2mkd-debootstrap.def")
"""What is built from that."""
LABEL = "org.m2mkd.provenance"
"""Label of an image with its provenance, as JSON."""
DECISIVE = ("context", "base", "locks")
"""Parts of the provenance that decide what is in an image; the others only tell when and from which commit."""
ARCHIVES = {"docker": "docker-archive", "podman": "oci-archive"}
"""Form of the archive that an engine makes. The layers of Podman's are compressed, so that Apptainer does not compress them first."""


class BuildError(Exception):
    """One line that says what is wrong and what to do."""


def run(*command: str, capture: bool = False) -> str:
    """Run a command; its failure ends the build in one line after what it printed."""
    done = subprocess.run(command, check=False, text=True, stdout=subprocess.PIPE if capture else None)
    if done.returncode:
        raise BuildError(f"'{shlex.join(command[:4])} ...' failed with status {done.returncode}; see what it printed above")
    return (done.stdout or "").strip()


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Say how long something took."""
    start = time.monotonic()
    yield
    sys.stderr.write(f"{what}: {time.monotonic() - start:.0f} s\n")


def answers(*command: str) -> bool:
    """Whether a program is there and works."""
    if not shutil.which(command[0]):
        return False
    return subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def find_engine(wanted: str | None) -> str:
    """The engine to build with: the wanted one, or the first that answers."""
    questions = {"docker": ("docker", "info"), "podman": ("podman", "info"), "apptainer": ("apptainer", "--version")}
    if wanted and wanted not in questions:
        raise BuildError(f"ENGINE={wanted} is none of {', '.join(questions)}")
    for engine in [wanted] if wanted else questions:
        if answers(*questions[engine]):
            return engine
    missing = f"{wanted} does not answer" if wanted else "no engine answers (docker, podman, apptainer)"
    raise BuildError(f"{missing}; start or install one, or type 'make standin' on a Debian machine")


def output_of(*command: str) -> str:
    """What a program prints, or nothing where it fails."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def git(*arguments: str) -> str:
    """What git answers of the project, or nothing outside its own repository: an archive may be unpacked inside another."""
    return output_of("git", *arguments) if Path(".git").exists() else ""


def in_context() -> list[str]:
    """What a build may see: what Dockerfile.dockerignore lets through, and the recipes themselves."""
    lines = (CONTAINERS / "Dockerfile.dockerignore").read_text().splitlines()
    return [line[1:] for line in lines if line.startswith("!")] + list(RECIPES)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_lock(text: str) -> dict[str, list[str]]:
    """Rows of images.lock by name: digest, date, digest of the locked requirements; what is unknown is empty."""
    rows = [line.split("\t") for line in text.splitlines() if line and not line.startswith("#")]
    return {name: [*values, "", "", ""][:3] for name, *values in rows}


def note(name: str, found: str, lock: str) -> None:
    """Write what became known of an image to images.lock."""
    text = IMAGES_LOCK.read_text()
    rows = read_lock(text) | {name: [found, datetime.date.today().isoformat(), lock]}
    comments = [line for line in text.splitlines() if line.startswith("#")]
    IMAGES_LOCK.write_text("\n".join([*comments, *("\t".join([key, *values]) for key, values in sorted(rows.items()))]) + "\n")


def default_base() -> str:
    """The base that the Dockerfile names, pinned where its digest is known."""
    (name,) = re.findall(r"^ARG BASE_IMAGE=(\S+)", (CONTAINERS / "Dockerfile").read_text(), re.M)
    known = read_lock(IMAGES_LOCK.read_text()).get(name, [""])[0]
    if not known:
        sys.stderr.write(f"unlocked: {name} has no digest in {IMAGES_LOCK}; 'make resolve-images' looks it up where a registry answers\n")
    return f"{name}@{known}" if known else name


def provenance(accelerator: str, engine: str, base: str) -> dict:
    """Where an image comes from."""
    # The whole environment is in the lock, so that its digest stands for all versions.
    locks = {path.name: digest(path) for path in (CONTAINERS / "locks" / name for name in (f"run-{accelerator}.txt", "uv.txt", "sbom.txt"))}
    return {
        "name": f"m2mkd:{accelerator}",
        "version": m2mkd.__version__,
        "revision": git("rev-parse", "HEAD") or "unknown",
        "changed": bool(git("status", "--porcelain", "--", *in_context())),
        "source": source_digest(Path("m2mkd")),
        "locks": locks,
        "base": base,
        "command": f"make image-{accelerator} ENGINE={engine}",
        "created": datetime.datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", time.time())), datetime.UTC).isoformat(),
    }


def lay_out(context: Path) -> str:
    """Fill the folder that a build sees with files that git knows or would know; their digest."""
    try:
        listed = project_files(Path(), *in_context())
    except (OSError, subprocess.CalledProcessError) as error:
        raise BuildError(f"git does not list the project's files ({error}); install it, or make it trust this folder") from None
    for name in listed:
        if Path(name).is_file():
            (context / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(name, context / name)
    return source_digest(context)


def complete(context: Path, accelerator: str, facts: dict) -> None:
    """Add what git does not know: wheels, provenance."""
    wheels = context / CONTAINERS / "wheels"
    wheels.mkdir()
    for requirement in local_versions((CONTAINERS / "locks" / f"run-{accelerator}.txt").read_text()):
        # A version with a local part is on no common registry; pip knows where this machine has it, and the build checks its hash.
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(wheels), requirement],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise BuildError(f"pip finds no wheel of {requirement}; set PIP_FIND_LINKS to a place that has it, or type 'make image-cuda'")
    (context / CONTAINERS / "provenance.json").write_text(json.dumps(facts, indent=1) + "\n")


def local_versions(lock: str) -> list[str]:
    """Requirements of a lock whose version has a local part, as name==version."""
    return re.findall(r"^([\w.-]+==[\w.]+\+[\w.]+)", lock, re.M)


def is_current(accelerator: str, engine: str, facts: dict) -> bool:
    """Whether the image is there in every form that this machine allows, and made from the same."""
    archive, sif = (CONTAINERS / f"m2mkd-{accelerator}.{form}" for form in ("tar", "sif"))
    labels = []
    if engine != "apptainer":
        asked = (engine, "image", "inspect", "--format", f'{{{{index .Config.Labels "{LABEL}"}}}}', tag(accelerator))
        labels.append(output_of(*asked) if archive.is_file() else "")
    if answers("apptainer", "--version"):
        inspected = output_of("apptainer", "inspect", "--labels", "--json", str(sif)) if sif.is_file() else ""
        labels.append(json.loads(inspected or "{}").get("data", {}).get("attributes", {}).get("labels", {}).get(LABEL, ""))
    found = [json.loads(label or "{}") for label in labels]
    return all(was.get(part) == facts[part] for was in found for part in DECISIVE)


def tag(accelerator: str) -> str:
    """Name of an image in the store of an engine."""
    return f"localhost/m2mkd:{accelerator}"


def arguments(facts: dict) -> list[str]:
    """Build arguments for the labels."""
    values = {
        "PROVENANCE": json.dumps(facts, separators=(",", ":")),
        "REVISION": facts["revision"] + ("-changed" if facts["changed"] else ""),
        "VERSION": facts["version"],
        "CREATED": facts["created"],
        "SOURCE": facts["source"],
    }
    return [word for name, value in values.items() for word in ("--build-arg", f"{name}={value}")]


def build_with_engine(engine: str, accelerator: str, context: Path, facts: dict) -> Path:
    """Image in the engine's store, and an archive of it."""
    extra = shlex.split(os.environ.get("ENGINE_ARGUMENTS", ""))
    # The other format of Podman forgets SHELL.
    form = ["--format", "docker"] if engine == "podman" else []
    dockerfile = str(context / CONTAINERS / "Dockerfile")
    base = ["--build-arg", f"BASE_IMAGE={facts['base']}"]
    with timed(f"{tag(accelerator)} built"):
        run(
            engine, "build", *form, *extra, *base, *arguments(facts),
            "--target", accelerator, "-f", dockerfile, "-t", tag(accelerator), str(context),
        )  # fmt: skip
    identity = run(engine, "image", "inspect", "--format", "{{.Id}}", tag(accelerator), capture=True).removeprefix("sha256:")
    note(f"m2mkd:{accelerator}", f"sha256:{identity}", facts["locks"][f"run-{accelerator}.txt"])
    archive = CONTAINERS / f"m2mkd-{accelerator}.tar"
    # Whole or not at all: that it is there counts.
    temporary = archive.with_name(f".{archive.name}")
    for path in (archive, temporary):
        path.unlink(missing_ok=True)
    with timed(f"{archive} saved"):
        if engine == "podman":
            place = f"{ARCHIVES[engine]}:{temporary}:{tag(accelerator)}"
            run(engine, "push", "-q", "--compression-format", "zstd", tag(accelerator), place)
        else:
            run(engine, "save", "-o", str(temporary), tag(accelerator))
    temporary.replace(archive)
    return archive


def build_sif(accelerator: str, definition: str, words: list[str]) -> Path:
    """The SIF, whole or not at all."""
    image = CONTAINERS / f"m2mkd-{accelerator}.sif"
    temporary = image.with_name(f".{image.name}")
    with timed(f"{image} made"):
        run("apptainer", "build", "--force", *words, *SQUASH, str(temporary), str(CONTAINERS / definition))
    temporary.replace(image)
    return image


def without_engine(accelerator: str, context: Path, facts: dict) -> Path:
    """The SIF from Debian's packages; what this machine trusts is lent to the build and stays outside the image."""
    targets = run("apt-get", "indextargets", "--format", "$(REPO_URI)", capture=True).splitlines()
    mirror = next((uri for uri in targets if uri.endswith("/debian/")), None)
    if mirror is None:
        raise BuildError("no list of Debian's packages here; run apt-get update, or build with docker or podman")
    trusted = "/etc/ssl/certs/ca-certificates.crt"
    os.environ["APPTAINERENV_SSL_CERT_FILE"] = "/mnt/ca-certificates.crt"
    words = ["--bind", f"{trusted}:/mnt/ca-certificates.crt:ro"]
    for name, value in {"MIRROR": mirror, "CONTEXT": str(context), "ACCELERATOR": accelerator}.items():
        words += ["--build-arg", f"{name}={value}"]
    return build_sif(accelerator, "m2mkd-debootstrap.def", [*words, *arguments(facts)])


def build(accelerator: str, engine: str) -> None:
    """Build one image in every form that this machine allows."""
    lock = digest(CONTAINERS / "locks" / f"run-{accelerator}.txt")
    base = "debootstrap:bookworm" if engine == "apptainer" else os.environ.get("BASE_IMAGE") or default_base()
    facts = provenance(accelerator, engine, base)
    sif = None
    with tempfile.TemporaryDirectory(prefix="m2mkd-image-") as folder:
        facts["context"] = lay_out(Path(folder))
        if is_current(accelerator, engine, facts):
            sys.stdout.write(f"m2mkd:{accelerator} is there, made from the same code, lock and base\n")
            return
        complete(Path(folder), accelerator, facts)
        if engine == "apptainer":
            sif = without_engine(accelerator, Path(folder), facts)
        else:
            archive = build_with_engine(engine, accelerator, Path(folder), facts)
            if answers("apptainer", "--version"):
                sif = build_sif(accelerator, "m2mkd.def", ["--build-arg", f"FORM={ARCHIVES[engine]}", "--build-arg", f"ARCHIVE={archive}"])
    if sif is None:
        sys.stdout.write(f"{archive}: no apptainer to make a SIF of it; 'container: {ARCHIVES[engine]}:{archive}' converts it later\n")
        return
    note(sif.name, f"sha256:{digest(sif)}", lock)
    sys.stdout.write(f"{sif}: {sif.stat().st_size / 1e6:.0f} MB\n")


def resolve(engine: str) -> None:
    """Look up digests of the images of others, for images.lock."""
    own = re.compile(r"m2mkd[:-]")
    for name in read_lock(IMAGES_LOCK.read_text()):
        if own.match(name):
            continue
        if not answers(engine, "pull", "-q", name):
            sys.stdout.write(f"unlocked: {name}; no registry answered for it\n")
            continue
        found = run(engine, "image", "inspect", "--format", "{{index .RepoDigests 0}}", name, capture=True).rpartition("@")[2]
        note(name, found, "")
        sys.stdout.write(f"{name}@{found}\n")


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("cpu", "cuda", "resolve"))
    what = parser.parse_args().what
    os.chdir(ROOT)
    try:
        engine = find_engine(os.environ.get("ENGINE"))
        if what == "resolve":
            resolve(engine)
        else:
            build(what, engine)
    except BuildError as error:
        sys.stderr.write(f"image {what}: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
