"""What DVC keeps comes back into a fresh clone, from a folder and from an S3-compatible server, and nothing of it is computed again."""

import hashlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.loopback import serving
from tests.workflow.studies import tables

IMPORTED, ADDED = "tiny-imagenet-r-SYNTHETIC.zip", "cifar-100-fewshot-25x20.tar.gz"


def test_a_restored_clone_has_nothing_to_compute(kept, tmp_path):
    clone = kept.clone(tmp_path / "clone")
    said = clone.run("m2mkd", "restore").stdout
    runs = len(list((clone.root / "results/smoke/runs").glob("*/*")))
    assert f"{runs} of {runs} runs are here" in said
    assert clone.jobs() == []
    assert tables(clone) == tables(kept)
    assert (clone.root / "results/mlflow.db").is_file()


def test_tables_beside_other_published_numbers_are_made_again(kept, tmp_path):
    clone = kept.clone(tmp_path / "clone")
    published = clone.root / "results/published/m2mkd.csv"
    published.write_text(published.read_text().replace("vmoe_base,m2mkd,iid,top1,,", "vmoe_base,m2mkd,iid,top1,12.34,"))
    clone.run("m2mkd", "restore")
    assert clone.jobs("--dry-run") == ["all", "compile", "report", "track"]


@pytest.mark.parametrize(("lock", "message"), [(False, "dvc.lock: missing"), (True, "dvc pull: failed, see")])
def test_where_nothing_can_be_pulled_it_says_so(project, lock, message):
    if lock:
        (project.root / "dvc.lock").write_text("schema: '2.0'\n")
    done = project.run("m2mkd", "restore", "--remote", "nowhere", check=False)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("m2mkd: ")]
    assert message in line
    assert "Traceback" not in done.stderr


@pytest.fixture
def object_store(monkeypatch) -> Iterator[Any]:
    """Client of an S3-compatible server on loopback, with a bucket named after the project."""
    import boto3
    from moto.server import ThreadedMotoServer

    for name, value in (("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"), ("AWS_DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(name, value)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    client = boto3.client("s3", endpoint_url="http://{}:{}".format(*server.get_host_and_port()))
    client.create_bucket(Bucket="m2mkd")
    yield client
    server.stop()


def test_archives_and_packs_through_an_s3_server(project, packs_dir, tmp_path_factory, object_store):
    project.set_config(scale="smoke")
    (project.root / "data/raw").mkdir(parents=True)
    with serving({IMPORTED: packs_dir / IMPORTED}) as source:
        project.run("dvc", "import-url", f"{source.url}/{IMPORTED}", f"data/raw/{IMPORTED}")
    project.run("m2mkd", "data", "fetch", "cifar-100-fewshot", "--from", str(packs_dir))
    project.run("dvc", "add", f"data/raw/{ADDED}")
    project.run("dvc", "repro", "data")
    project.run("dvc", "remote", "add", "--default", "store", "s3://m2mkd/study")
    project.run("dvc", "remote", "modify", "store", "endpointurl", object_store.meta.endpoint_url)
    project.run("dvc", "push")
    clone = project.clone(tmp_path_factory.mktemp("clone") / "project")
    tracked = clone.run("git", "ls-files", "data").stdout.split()
    assert tracked == [f"data/raw/{ADDED}.dvc", f"data/raw/{IMPORTED}.dvc"], "archives by name, and never an image"
    clone.run("m2mkd", "restore", "--remote", "store", "--jobs", "4")
    for name in (IMPORTED, ADDED):
        assert (clone.root / "data/raw" / name).read_bytes() == (packs_dir / name).read_bytes()
    assert "complete" in clone.run("m2mkd", "data", "verify", "digits").stdout
    assert clone.jobs("all_data") == []
    # What a remote has lost is told.
    (lost,) = [key for key in keys(object_store) if hashlib.md5((packs_dir / ADDED).read_bytes()).hexdigest() in key.replace("/", "")]
    object_store.delete_object(Bucket="m2mkd", Key=lost)
    shutil.rmtree(clone.root / ".dvc/cache")
    (clone.root / "data/raw" / ADDED).unlink()
    done = clone.run("m2mkd", "restore", check=False)
    assert done.returncode == 2
    assert f"m2mkd: data/raw/{ADDED}: not on the remote; run 'dvc push' where it was made" in done.stderr


def keys(object_store) -> list[str]:
    return [entry["Key"] for entry in object_store.list_objects_v2(Bucket="m2mkd")["Contents"]]
