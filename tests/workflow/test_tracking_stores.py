"""Eight processes at once on one store, and a server that is stopped and started: every point is there in the end, and once."""

import json
import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import sqlalchemy

from m2mkd.results.judge.results import Results
from m2mkd.results.tables.compile import compile_tables
from m2mkd.study.files import planned_runs
from m2mkd.study.phase import CURVES
from m2mkd.study.phases import TrainStudent
from m2mkd.tracking.address import URI_VARIABLE
from m2mkd.tracking.live import order_of
from m2mkd.tracking.mlflow_export import sync
from m2mkd.tracking.mlflow_mirror import MlflowMirror
from m2mkd.training.curves import Curves
from tests.fabricated import finish, plan
from tests.workflow.servers import mlflow_server, postgresql

PROCESSES = 8
EXPERIMENTS = ["vmoe_base/m2mkd"]
# Children share what is loaded here and not again, but no connection.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(
    ["mlflow.tracking", "mlflow.store.tracking.sqlalchemy_store", "psycopg2", "tests.workflow.test_tracking_stores"]
)


def make(root: Path):
    study = plan(root, "smoke", EXPERIMENTS)
    if not (root / "results/smoke/tables").is_dir():
        finish(study)
        compile_tables(Results.read(study))
    return study


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """A finished study that no store knows."""
    root = tmp_path_factory.mktemp("stores")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        make(root)
    return root


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request, tmp_path) -> Iterator[str]:
    """Address of a fresh database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/one.db"
    else:
        with postgresql() as uri:
            yield uri


def train_and_sync(number: int, root: Path, uri: str, barrier) -> None:
    """One of several machines: it mirrors its share of the trainings epoch by epoch, and then brings the whole study."""
    os.chdir(root)
    os.environ[URI_VARIABLE] = uri
    study = make(root)
    trained = [run for run in study.runs.values() if CURVES in run.config.OUTPUTS]
    mine = trained[number % len(trained)]  # some are trained by two at once
    planned = planned_runs(study)[mine.id]
    mirror = MlflowMirror({"experiment": "m2mkd/smoke", "seconds": 0, "runs": [order_of(planned)]}, os.getppid())
    barrier.wait()
    curves = Curves(planned.work / CURVES)
    for line in (planned.folder / CURVES).read_text().splitlines():
        curves.append(json.loads(line))
        assert mirror.turn()
    assert mirror.turn(last=True)
    barrier.wait()
    sync(Results.read(study))


def run_together(arguments: Sequence[tuple], target) -> None:
    barrier = processes.Barrier(len(arguments))
    started = [processes.Process(target=target, args=(*those, barrier)) for those in arguments]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0] * len(arguments)


def points_in(uri: str) -> Counter:
    """How often each point stands in the runs that are not deleted: key, name, step and value."""
    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
    question = """select k.value, m.key, m.step, m.value from metrics m join runs r on r.run_uuid = m.run_uuid
        join tags l on l.run_uuid = r.run_uuid and l.key = 'level' and l.value = 'run'
        join tags k on k.run_uuid = r.run_uuid and k.key = 'key'
        where r.lifecycle_stage = 'active' and m.key not like '%%/%%'"""
    with engine.connect() as connection:
        return Counter(tuple(row) for row in connection.execute(sqlalchemy.text(question)))


def points_of(root: Path) -> Counter:
    """The same of the files."""
    found: Counter = Counter()
    for path in (root / "results/smoke/runs").glob(f"*/*/{CURVES}"):
        for line in map(json.loads, path.read_text().splitlines()):
            key = path.parts[-2]
            found.update((key, name, line["epoch"], value) for name, value in line.items() if name not in ("epoch", "step"))
    return found


def assert_once(uri: str, root: Path) -> None:
    expected = points_of(root)
    assert len(expected) > 50 and points_in(uri) == expected
    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        active = connection.execute(
            sqlalchemy.text(
                """select l.value, k.value, r.status from runs r join tags l on l.run_uuid = r.run_uuid and l.key = 'level'
                join tags k on k.run_uuid = r.run_uuid and k.key = 'key' where r.lifecycle_stage = 'active'"""
            )
        ).fetchall()
        versions = connection.execute(
            sqlalchemy.text("select run_id from model_versions where current_stage != 'Deleted_Internal'")
        ).fetchall()
        parents = connection.execute(
            sqlalchemy.text(
                """select distinct l.value, r.lifecycle_stage from tags p join runs r on r.run_uuid = p.value
                join tags l on l.run_uuid = r.run_uuid and l.key = 'level' join runs c on c.run_uuid = p.run_uuid
                where p.key = 'mlflow.parentRunId' and c.lifecycle_stage = 'active'"""
            )
        ).fetchall()
    assert [tuple(parent) for parent in parents] == [("row", "active")]
    assert len({(level, key) for level, key, _ in active}) == len(active)
    assert {status for *_, status in active} == {"FINISHED"}
    assert len(versions) == len(list((root / "results/smoke/runs").glob(f"{TrainStudent.name()}/*")))


def test_eight_machines_write_to_a_fresh_store(store, template, tmp_path):
    roots = [tmp_path / str(place) for place in range(PROCESSES)]
    for root in roots:
        shutil.copytree(template, root)
    run_together([(place, root, store) for place, root in enumerate(roots)], train_and_sync)
    assert_once(store, template)


def mirror_part(root: Path, uri: str, place: int, first: int, last: int, barrier) -> None:
    """Epochs ``first`` to ``last`` of one training, mirrored to a store that may be away; it must not matter to the training."""
    os.chdir(root)
    os.environ |= {URI_VARIABLE: uri, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
    study = make(root)
    trained = [run for run in study.runs.values() if CURVES in run.config.OUTPUTS]
    run = trained[place]
    planned = planned_runs(study)[run.id]
    curves = Curves(planned.work / CURVES)
    mirror = MlflowMirror({"experiment": "m2mkd/smoke", "seconds": 0, "runs": [order_of(planned)]}, os.getppid())
    barrier.wait()
    for line in (planned.folder / CURVES).read_text().splitlines()[first:last]:
        curves.append(json.loads(line))
        mirror.turn()


def test_a_server_is_stopped_and_started_in_the_middle(template, tmp_path):
    root = tmp_path / "machine"
    shutil.copytree(template, root)
    database = f"sqlite:///{tmp_path}/served.db"
    with mlflow_server(tmp_path, database) as server:
        everybody = [(root, server.uri, place) for place in range(PROCESSES)]
        run_together([(*those, 0, 1) for those in everybody], mirror_part)
        before = points_in(database)
        assert len(before) >= 2 * PROCESSES
        server.stop()
        run_together([(*those, 1, 2) for those in everybody], mirror_part)
        assert points_in(database) == before
        server.start()
        run_together([(*those, 2, 3) for those in everybody[:4]], mirror_part)
        run_together([(root, server.uri)] * 2, sync_only)
    assert_once(database, template)


def sync_only(root: Path, uri: str, barrier) -> None:
    os.chdir(root)
    os.environ[URI_VARIABLE] = uri
    study = make(root)
    barrier.wait()
    sync(Results.read(study))
