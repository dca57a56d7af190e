"""Finished students in MLflow's model registry: a model for each row of the tables, a version for each seed.

A version is a model that ``mlflow.pyfunc.load_model`` loads wherever this package is installed. It holds the run's safetensors and its
record and no pickle, and can be written without loading torch.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from m2mkd.results.read.records import Record
from m2mkd.study.phase import RECORD, WEIGHTS
from m2mkd.study.phases import TrainStudent
from m2mkd.study.run import RowName
from m2mkd.tracking.entry import RECORD_TAG, Artifact
from m2mkd.tracking.store import ATTEMPTS, ContestedError, Store, persistently

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

FOLDER = "model"
"""Folder of the model among a run's artifacts."""


def model_name(scale: str, row_name: RowName) -> str:
    """Name of a row's students in the registry, which takes neither slashes nor colons."""
    return ".".join((scale, row_name.experiment, row_name.variant.replace("/", "-"), row_name.profile))


def model_artifacts(folder: Path, record: Record) -> dict[str, Artifact]:
    """Files of a student as an MLflow model.

    Parameters
    ----------
    folder
        Folder of its run's outputs.
    record
        The run, of phase ``train_student``.
    """
    inside = record.run.id
    files: dict[str, Artifact] = {f"{FOLDER}/{inside}/{name}": folder / name for name in (WEIGHTS, RECORD)}
    return files | {f"{FOLDER}/MLmodel": partial(_describe, record, inside)}


def _describe(record: Record, inside: str, file: BinaryIO) -> None:
    import numpy as np
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    config: Any = record.run.config
    assert isinstance(config, TrainStudent)
    size, number = config.data.image_size, np.dtype("float32")
    signature = ModelSignature(
        inputs=Schema([TensorSpec(number, (-1, 3, size, size), "images")]),
        outputs=Schema([TensorSpec(number, (-1, config.data.classes))]),
    )
    model = Model(utc_time_created=None, signature=signature, model_uuid=record.digest[:32], metadata={"run": inside})
    model.add_flavor("python_function", loader_module=__name__, data=inside, python_version=record.provenance.get("python"))
    file.write(model.to_yaml().encode())


def register(store: Store, name: str, run_id: str, tags: Mapping[str, str]) -> None:
    """Register a run's model as a version, exactly once.

    Parameters
    ----------
    store
        Store with the run.
    name
        Name of the registered model, which is made if it is not there.
    run_id
        The run, with a model among its artifacts.
    tags
        Tags of the version; ``key`` identifies the run. Another version of the same run is replaced if it is of another MLflow
        run or record.

    Raises
    ------
    ContestedError
        If other processes keep changing it.
    """
    from mlflow.exceptions import MlflowException

    client = store.client
    for _ in range(ATTEMPTS):
        try:
            versions = client.search_model_versions(f"name = '{name}' and tags.key = '{tags['key']}'")
            found = sorted(versions, key=lambda version: int(version.version))
            right = [version for version in found if (version.run_id, version.tags.get(RECORD_TAG)) == (run_id, tags[RECORD_TAG])]
            for version in found:
                if version not in right[:1]:
                    client.delete_model_version(name, version.version)
            if right and len(found) == 1:
                return
            if not right:
                _make_sure_of(client, name)
                persistently(partial(client.create_model_version, name, f"runs:/{run_id}/{FOLDER}", run_id, tags=dict(tags)))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # deleted by another in the meantime
                raise
    raise ContestedError


def _make_sure_of(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


class ServedStudent:
    """Student with the interface of MLflow's ``python_function`` flavour."""

    def __init__(self, network: "nn.Module"):
        self.network = network

    def predict(self, images: "np.ndarray | Mapping[str, np.ndarray]", params: object = None) -> "np.ndarray":
        """Logits (B, classes) of normalised images, float32 (B, 3, H, W)."""
        import torch

        batch = images["images"] if isinstance(images, Mapping) else images
        with torch.no_grad():
            return self.network(torch.from_numpy(batch)).numpy()


def _load_pyfunc(path: str) -> ServedStudent:
    """The student in a folder with weights and record; called by MLflow."""
    from m2mkd.upstream.imported import open_run

    return ServedStudent(open_run(Path(path, WEIGHTS)).build())
