"""Checks of the machine: engines, GPU, disk, memory."""

import shutil
import subprocess
from pathlib import Path

import psutil

from m2mkd.doctor.check_result import CheckResult

LEAST_DRIVER = {12: 525, 13: 580}
"""First driver that supports a major version of CUDA, by NVIDIA's table of minor version compatibility."""
GIGABYTE = 1e9


def answer(*command: str, patience: float = 20) -> str | None:
    """First line that a program prints; none if it is absent, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=patience, check=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return None
    return (done.stdout.strip().splitlines() or [""])[0]


def engine() -> CheckResult:
    """Check for an engine that can build images."""
    for name, question in (("docker", "{{.ServerVersion}}"), ("podman", "{{.Version.Version}}")):
        version = answer(name, "info", "--format", question)
        if version:
            return CheckResult("engine", "pass", f"{name} {version}")
    idle = " (docker is installed, but its daemon does not answer)" if shutil.which("docker") else ""
    return CheckResult(
        "engine", "warn", f"neither docker nor podman{idle}", "only to build images: start or install one, or 'make standin'"
    )


def apptainer() -> CheckResult:
    """Check for a program that can run SIFs."""
    version = answer("apptainer", "--version") or answer("singularity", "--version")
    if version:
        return CheckResult("apptainer", "pass", version)
    return CheckResult("apptainer", "warn", "absent", "only for --use-singularity: install Apptainer, or 'make standin' on Debian")


def gpu() -> CheckResult:
    """Check that the GPU, its driver and the build of torch fit together."""
    import torch

    build = f"torch {torch.__version__}"
    driver = answer("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    if driver and not driver[0].isdigit():  # such as "No devices were found"
        driver = None
    if torch.version.cuda is None:
        if driver:
            return CheckResult(
                "gpu",
                "warn",
                f"{build} is the CPU build, and there is a GPU (driver {driver})",
                "install run-cuda.txt",
            )
        return CheckResult("gpu", "pass", f"{build}: CPU build, no GPU")
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        return CheckResult("gpu", "pass", f"{build}, CUDA {torch.version.cuda}, driver {driver or 'unknown'}: {names}")
    if driver is None:
        return CheckResult("gpu", "warn", f"{build}, CUDA {torch.version.cuda}: no device found", "use the CPU, or --nv in an image")
    least = LEAST_DRIVER.get(int(torch.version.cuda.split(".")[0]))
    if least and int(driver.split(".")[0]) < least:
        return CheckResult("gpu", "fail", f"driver {driver} is too old for CUDA {torch.version.cuda}", f"install driver {least} or later")
    return CheckResult(
        "gpu", "fail", f"driver {driver} is installed, but {build} sees no device", "check CUDA_VISIBLE_DEVICES and nvidia-smi"
    )


def disk(folder: Path = Path(), need: float = 2, comfort: float = 20) -> CheckResult:
    """Check the free space in the folder of results, in gigabytes."""
    free = shutil.disk_usage(folder).free / GIGABYTE
    found = f"{free:.0f} GB free"
    if free < need:
        return CheckResult("disk", "fail", found, "free some space; the small study needs 2 GB")
    if free < comfort:
        return CheckResult("disk", "warn", found, "enough for the small study; building the image for CUDA needs 20 GB")
    return CheckResult("disk", "pass", found)


def memory(need: float = 2, comfort: float = 6) -> CheckResult:
    """Check the available memory in gigabytes, of the machine or of the control group that limits this process."""
    available = psutil.virtual_memory().available
    confined = Path("/sys/fs/cgroup/memory.max")
    if confined.is_file() and (limit := confined.read_text().strip()).isdigit():
        available = min(available, int(limit))
    found = f"{available / GIGABYTE:.1f} GB available"
    if available < need * GIGABYTE:
        return CheckResult("memory", "fail", found, "end other programs, or use a larger machine; a job needs about 1 GB")
    if available < comfort * GIGABYTE:
        return CheckResult("memory", "warn", found, "run fewer jobs at a time: --cores 1")
    return CheckResult("memory", "pass", found)
