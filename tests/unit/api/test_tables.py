"""Compiled tables as data frames."""

import shutil
from pathlib import Path

import pytest

import m2mkd


def test_tables_of_a_scale_are_those_of_its_files(project):
    results = m2mkd.Results("smoke")
    assert {"claims", "results", "curves", "runs", "measurements"} <= set(results) and len(results) == len(list(results))
    assert results.is_complete and results.folder == Path("results/smoke")
    runs = results["runs"]
    assert set(runs.run) <= set(project.runs) and len(runs) > 5
    measured = results["measurements"]
    assert measured.value.between(0, 10).all() and set(measured.split) >= {"iid"}
    assert list(results["results"].columns)[1:3] == ["experiment", "variant"]


def test_a_folder_elsewhere(project, tmp_path):
    copy = shutil.copytree("results/smoke/tables", tmp_path / "kept/tables")
    results = m2mkd.Results(tmp_path / "kept")
    assert len(results["claims"]) == len(m2mkd.Results("smoke")["claims"])
    path = copy / "claims.csv"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(m2mkd.InputError, match=r"claims\.csv: has been changed since it was compiled; run 'm2mkd compile' again"):
        m2mkd.Results(tmp_path / "kept")


def test_unknown_names(project):
    results = m2mkd.Results("smoke")
    with pytest.raises(KeyError, match=r"no table 'claim'; did you mean 'claims'\?"):
        results["claim"]
    assert "claim" not in results and results.get("claim") is None
    with pytest.raises(m2mkd.InputError, match="has no compiled tables; run 'm2mkd compile'"):
        m2mkd.Results("paper")
