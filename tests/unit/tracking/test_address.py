"""Where the store is, and how that is written down."""

from pathlib import Path

import pytest

from m2mkd.errors import InputError
from m2mkd.results.judge.results import Results
from m2mkd.tracking.address import set_default_tracking_uri, store_uri, without_credentials
from m2mkd.tracking.mlflow_export import sync


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns", "databricks", "ftp://user:secret@example.org/x"])
def test_a_store_that_holds_points_twice_is_refused(synced, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(InputError, match=r"MLFLOW_TRACKING_URI .*: is neither a database nor a server; give one like") as refused:
        sync(Results.read(synced))
    assert "secret" not in str(refused.value)
    assert not Path("mlruns").exists()


def test_a_store_that_cannot_be_used_is_an_input_error(synced):
    Path("results/mlflow.db").write_bytes(b"no database at all" * 1000)
    with pytest.raises(InputError, match=r"sqlite:///results/mlflow\.db: results/mlflow\.db is not an SQLite database"):
        sync(Results.read(synced))


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("sqlite:///results/mlflow.db", "sqlite:///results/mlflow.db"),
        ("https://user:secret@host.example:8080/path?token=secret", "https://host.example:8080/path"),
        ("postgresql://user:secret@host/db", "postgresql://host/db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
    ],
)
def test_credentials_are_not_written(uri, shown):
    assert without_credentials(uri) == shown


def test_the_configured_store_holds_unless_a_variable_names_one(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert set_default_tracking_uri("") == {} and store_uri() == "sqlite:///results/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://of.the.variable.example")
    assert set_default_tracking_uri("http://of.the.file.example") == {"MLFLOW_TRACKING_URI": "http://of.the.variable.example"}
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert set_default_tracking_uri("http://of.the.file.example") == {"MLFLOW_TRACKING_URI": "http://of.the.file.example"}
    assert store_uri() == "http://of.the.file.example"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
