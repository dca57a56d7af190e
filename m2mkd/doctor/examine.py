"""All checks, in order."""

from pathlib import Path

from m2mkd.config.experiment import Settings
from m2mkd.containers.inside import is_image
from m2mkd.doctor import inside, machine, project
from m2mkd.doctor.check_result import CheckResult


def examine(settings: Settings) -> list[CheckResult]:
    """Check the machine and the project, or the image if this process runs in one."""
    common = [machine.gpu(), machine.disk(), machine.memory(), inside.writable(Path("results"))]
    records = [project.dvc_remote(), project.mlflow_store(settings)]
    if is_image():
        return [inside.origin(), inside.user(), inside.root(), *common, *records, project.versions(inside.lock())]
    return [
        machine.engine(),
        machine.apptainer(),
        project.image(settings),
        *project.data_roots(settings),
        *common,
        *records,
        project.versions(project.lock_of_this_machine()),
    ]
