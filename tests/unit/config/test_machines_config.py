"""One reader for the configuration: nothing stands twice, and nothing is quietly taken for something else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from m2mkd.cli import app
from m2mkd.config import load
from m2mkd.config.strict import parse_json, parse_yaml
from m2mkd.errors import InputError
from m2mkd.tracking import address
from tests.conftest import ROOT

TWICE = "scale: smoke\noverrides:\n  seeds: 1\noverrides:\n  seeds: 2\n"


@pytest.mark.parametrize("text", ["yes", "No", "ON", "off", "1:30", "1:30:00.5", "012", "-007", "0x1F", "0b11", "1_000", "1_0.5", "="])
@pytest.mark.parametrize("where", ["{}", "[1, {}]", "a: {}", "{}: a"])
def test_what_can_be_read_in_two_ways_is_refused(text, where):
    with pytest.raises(InputError, match="quotes"):
        parse_yaml(where.replace("{}", text), "config/a.yaml")
    quoted = parse_yaml(where.replace("{}", f"'{text}'"), "config/a.yaml")
    assert text in str(quoted)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e3", 1000.0),
        ("1e-05", 1e-5),
        ("-2.5E+3", -2500.0),
        ("12", 12),
        ("0", 0),
        ("0.5", 0.5),
        ("true", True),
        ("null", None),
        ("a1e3", "a1e3"),
    ],
)
def test_numbers_are_numbers(text, value):
    assert parse_yaml(text, "x") == value and type(parse_yaml(text, "x")) is type(value)


@pytest.mark.parametrize("text", ["seeds=012", "seeds=1:30", "title=yes", "models.a.b=0x10"])
def test_set_is_as_strict_as_a_file(text):
    with pytest.raises(InputError, match=r"--set .*quotes"):
        load.parse_overrides([text])


@pytest.mark.parametrize("title", ["\N{GRINNING FACE} and \N{EM DASH}", 'quo"ted', "1e3", "yes", "2024-02-26", "a\nb"])
def test_overrides_come_back_from_the_command_line_as_they_were(title):
    overrides = {"title": title, "recipes": {"distill_module": {"lr": 1e-05, "epochs": 3}}, "threads": None}
    assert load.parse_overrides(load.as_assignments(overrides)) == overrides


def test_escapes_of_json_are_the_character_that_they_stand_for():
    (assignment,) = [f"title={json.dumps('ab' + chr(0x1F600))}"]
    assert load.parse_overrides([assignment]) == {"title": "ab\N{GRINNING FACE}"}
    with pytest.raises(InputError, match="incomplete character"):
        load.parse_overrides(['title="\\ud83d"'])


def test_files_of_others_may_say_yes():
    assert parse_yaml("a: yes\nb: 012", "x", ours=False) == {"a": True, "b": 10}
    with pytest.raises(InputError, match="occurs twice"):
        parse_yaml("a: 1\na: 2", "x", ours=False)


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '{"b": {"a": 1, "a": 1}}', '[{"a": 1, "a": 2}]', "[" * 100_000])
def test_json_in_which_a_name_stands_twice_is_refused(text):
    with pytest.raises(InputError):
        parse_json(text, "--config")


def test_planning_for_the_workflow_reads_the_file_itself(tmp_path):
    (tmp_path / "config").mkdir()
    for path in (ROOT / "config").iterdir():
        (tmp_path / "config" / path.name).symlink_to(path) if path.name != "config.yaml" else None
    (tmp_path / "config/config.yaml").write_text(TWICE)
    plan = [sys.executable, "-m", "m2mkd", "runs", "plan", "--config", '{"scale": "smoke", "overrides": {"seeds": 2}}']
    done = subprocess.run(plan, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "'overrides' occurs twice" in done.stderr


@pytest.mark.parametrize(("name", "text"), [("more.yaml", TWICE), ("more.json", '{"overrides": {}, "overrides": {"seeds": 2}}')])
def test_every_file_that_snakemake_was_given_is_read_as_strictly(tmp_path, monkeypatch, name, text):
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(text)
    done = CliRunner().invoke(app, ["runs", "plan", "--config", '{"scale": "smoke"}', f"--read={name}"])
    assert isinstance(done.exception, InputError) and "'overrides' occurs twice" in str(done.exception) and name in str(done.exception)


@pytest.mark.parametrize(("text", "message"), [(b"\xff{}", "byte 0 is not UTF-8"), (b"[1]", "holds a list"), (b"{", "not valid JSON")])
def test_json_that_is_none_is_one_line(text, message):
    with pytest.raises(InputError, match=message):
        parse_json(text, "a.json")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "foreign.txt").write_text("some text of somebody")
    (tmp_path / "mine.db").write_bytes(address.SQLITE + bytes(84))
    (tmp_path / "there").mkdir()
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


@pytest.mark.parametrize(
    "uri",
    [
        "file:///tmp/mlruns",
        "file:mlruns",
        "mlruns",
        "./mlruns",
        "databricks",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///",
        "sqlite:///absent/folder/a.db",
        "sqlite:///there",
        "sqlite:///foreign.txt",
        "sqlite:///pipe",
        "http://",
        "http://[::1",
        "http://host:port",
        "sqlitely:///a.db",
    ],
)
def test_a_bad_address_is_refused_at_once_and_leaves_nothing(folder, uri):
    before = sorted(folder.rglob("*"))
    with pytest.raises(InputError) as refused:
        address.check_address(uri)
    assert len(str(refused.value).splitlines()) == 1 and sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    "uri",
    [
        address.DEFAULT_URI,
        "sqlite:///mine.db",
        "sqlite:///new.db",
        "http://127.0.0.1:5000",
        "https://user:secret@host/mlflow",
        "postgresql://u:p@host/db",
        "mysql+pymysql://host/db",
    ],
)
def test_a_good_address_is_taken(folder, uri):
    address.check_address(uri)


def test_a_workflow_is_not_planned_for_an_address_that_is_refused(folder, monkeypatch):
    from m2mkd.workflow import plan_workflow

    (folder / "config").symlink_to(ROOT / "config")
    monkeypatch.delenv(address.URI_VARIABLE, raising=False)
    with pytest.raises(InputError, match="neither a database nor a server"):
        plan_workflow(load.settings({"scale": "smoke", "tracking_uri": "file:///tmp/mlruns"}), None, print)
    os.environ.pop(address.URI_VARIABLE, None)


def test_no_lock_lies_beside_a_file_of_others(folder):
    with address._alone("sqlite:///there/mine.db"):
        assert not list((folder / "there").iterdir())
    with address._alone(address.DEFAULT_URI):
        assert Path("results/.mlflow.db.lock").exists()
