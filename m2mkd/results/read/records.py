"""Reading the outputs of finished runs, and refusing those that do not belong to the study."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from m2mkd.config.strict import parse_json
from m2mkd.data.recorded import manifest_here, require_recorded
from m2mkd.errors import InputError
from m2mkd.study.measurements import Measurement, check_last_line
from m2mkd.study.phase import CURVES, METRICS, RECORD
from m2mkd.study.phases import TrainProbe
from m2mkd.study.record import parse_record
from m2mkd.study.run import Run
from m2mkd.study.study import Study

UNFINISHED = "absent, so the run is not finished"


@dataclass(frozen=True)
class Record:
    """Finished run, with the content of its folder."""

    run: Run
    metrics: dict[str, Any]
    """Final measurements; empty for a phase that measures nothing."""
    curves: list[dict[str, Any]]
    """Learning curves, one line per epoch; empty for a phase that trains nothing."""
    provenance: dict[str, Any]
    """Time, place and software of its computation."""
    digest: str
    """Digest (sha256) of the record file, which holds the digests of all other outputs."""
    outputs: dict[str, str] = field(default_factory=dict)
    """Digests of the other outputs by name."""
    kept: dict[str, str] = field(default_factory=dict)
    """Digests of files that it keeps beside its outputs; none for a run of an earlier version."""
    measurements: tuple[Measurement, ...] = ()
    data: dict[str, str] = field(default_factory=dict)
    """Digests of the manifests of the sets that it used, by name@size."""


def read_record(study: Study, run: Run) -> Record:
    """Read a finished run and check it against the study.

    Raises
    ------
    InputError
        If it is missing, damaged, or of another configuration; names the file and the first difference.
    """
    folder = study.folder(run.id)
    fix = f"remove {folder} and run the workflow again"
    path = f"{folder}/{RECORD}"
    record = _content(path)
    if record is None:
        raise InputError(f"{path}: {UNFINISHED}; run 'snakemake --cores all --config scale={study.scale_name}'")
    try:
        content = parse_record(record, path)
        written = {name: content[name] for name in ("id", "key", "seed", "config", "upstream")}
        outputs, provenance = dict(content["outputs"]), dict(content["provenance"])
        kept = {str(name): str(digest) for name, digest in dict(content.get("kept", {})).items()}
        provenance |= {name: float(provenance[name]) for name in ("seconds", "started")}
        provenance |= {"packages": dict(provenance.get("packages", {}))}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a complete record of a run ({type(error).__name__}: {error}); {fix}") from None
    expected = {
        "id": run.id,
        "key": run.key,
        "seed": run.seed,
        **run.content,
    }
    if written != expected:
        name, there, here = next(differences(written, expected))
        raise InputError(f"{path}: {name} is {there} in this file, but {here} in the study; {fix}")
    if outputs.keys() != {name for name in run.config.OUTPUTS if name != RECORD}:
        raise InputError(f"{path}: outputs are {', '.join(map(str, outputs)) or 'none'}, which are not those of {run.phase}; {fix}")
    require_recorded(content.get("data"), run.config.data_sets, path)
    metrics: dict[str, Any] = {}
    curves: list[dict[str, Any]] = []
    if METRICS in outputs:
        metrics = parse_json(_verified(f"{folder}/{METRICS}", outputs[METRICS], fix), f"{folder}/{METRICS}")
    if CURVES in outputs:
        lines = _verified(f"{folder}/{CURVES}", outputs[CURVES], fix).splitlines()
        curves = _parsed(b"[%s]" % b",".join(lines), f"{folder}/{CURVES}", fix)  # at once, which is quicker than line by line
    measurements = _measured(run, metrics, curves, f"{folder}/{METRICS}", fix)
    return Record(run, metrics, curves, provenance, hashlib.sha256(record).hexdigest(), outputs, kept, measurements, content["data"])


def read_kept(study: Study, record: Record, name: str) -> bytes | None:
    """Content of a file that a run keeps beside its outputs; None if it has none, or somebody has removed it.

    Raises
    ------
    InputError
        If it is damaged.
    """
    path = Path(study.folder(record.run.id), name)
    if name not in record.kept or not path.exists():
        return None
    return _verified(str(path), record.kept[name], f"remove {path}, without which the run is as whole")


def _measured(run: Run, metrics: dict[str, Any], curves: list[dict[str, Any]], path: str, fix: str) -> tuple[Measurement, ...]:
    """Measurements of a run, checked against each other and against the data."""
    try:
        measurements = tuple(run.config.measurements(metrics))
        if curves and not isinstance(
            run.config, TrainProbe
        ):  # a probe may report another epoch than the last, or the mean of several heads
            check_last_line(metrics, curves[-1])
        _check_counts(run, measurements)
    except KeyError as error:
        raise InputError(f"{path}: no measurement {error}; {fix}") from None
    except (TypeError, AttributeError) as error:
        raise InputError(f"{path}: measurements of another form ({error}); {fix}") from None
    except ValueError as error:
        raise InputError(f"{path}: {error}; {fix}") from None
    return measurements


def _check_counts(run: Run, measurements: Iterable[Measurement]) -> None:
    """Refuse numbers of more or fewer images than the prepared set has, if it is present; as released, some may be left out."""
    left_out = {one.data: one.value for one in measurements if one.metric == "left_out"}
    counted = {one.data: one.count for one in measurements if one.count is not None}
    for data in run.config.data_sets:
        here = manifest_here(Path(data.folder))
        known = here[0]["splits"].get("val") if here else None
        if known is None or str(data) not in counted:
            continue
        seen = counted[str(data)] + int(left_out.get(str(data), 0))
        fits = seen <= known["images"] if run.config.compat.get("val_remainder") == "dropped" else seen == known["images"]
        if not fits:
            raise ValueError(f"{seen} images of {data} were measured, but it has {known['images']}")


def _parsed(text: bytes, path: str, fix: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); {fix}") from None


def _content(path: str) -> bytes | None:
    try:
        return Path(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def _verified(path: str, expected: str | None, fix: str) -> bytes:
    """Content of an output whose digest is the recorded one."""
    content = _content(path)
    if content is None:
        raise InputError(f"{path}: absent, though its record lists it; {fix}")
    actual = hashlib.sha256(content).hexdigest()
    if actual != expected:
        raise InputError(f"{path}: sha256 is {actual[:12]}..., but the run recorded {str(expected)[:12]}...; {fix}")
    return content


def differences(one: Any, other: Any, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Dotted names of all differences between two JSON values, with both values as JSON."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted(one.keys() | other.keys()):
            yield from differences(one.get(name), other.get(name), f"{prefix}.{name}" if prefix else name)
    elif one != other:
        yield prefix, json.dumps(one), json.dumps(other)
