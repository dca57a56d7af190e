"""What a job finds out of the image that it runs in, and records."""

import hashlib
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from m2mkd.containers import inside
from m2mkd.containers.source import source_digest
from m2mkd.errors import InputError


def test_a_job_that_was_to_run_inside_refuses_to_run_outside(monkeypatch):
    monkeypatch.setenv("M2MKD_CONTAINER", "a.sif")
    for name in ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER"):
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run([Path(sys.executable).with_name("m2mkd"), "runs", "list"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "m2mkd: this job must run in a.sif but is on the host; run Snakemake with --use-singularity, or with --config container=none\n"
    )


def test_a_job_inside_says_where_it_is_unless_the_image_is_of_other_code(monkeypatch, tmp_path, capsys):
    inside.require_ordered_container()
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("M2MKD_CONTAINER", "a.sif")
    monkeypatch.setenv("APPTAINER_CONTAINER", "/images/a.sif")
    monkeypatch.setattr(inside, "ABOUT", tmp_path)
    with pytest.raises(InputError, match="is on the host"):
        inside.require_ordered_container()
    (tmp_path / "lock.txt").touch()
    inside.require_ordered_container()
    assert re.fullmatch(r"container: /images/a\.sif, root (writable|read-only), uid \d+, revision unknown\n", capsys.readouterr().err)
    monkeypatch.chdir(tmp_path)
    inside.require_ordered_container()
    (tmp_path / "m2mkd").mkdir()
    (tmp_path / "m2mkd" / "new.py").touch()
    with pytest.raises(InputError, match=r"a\.sif holds another m2mkd than this folder; 'make image-cpu'"):
        inside.require_ordered_container()


def test_a_run_records_the_image_by_its_digests(monkeypatch, tmp_path):
    monkeypatch.setattr(inside, "ABOUT", tmp_path)
    assert inside.record() is None
    (tmp_path / "lock.txt").write_text("lock")
    (tmp_path / "sbom.cdx.json").write_text("parts")
    (tmp_path / "provenance.json").write_text('{"name": "m2mkd:cpu", "revision": "abc"}')
    monkeypatch.delenv("APPTAINER_CONTAINER", raising=False)
    found = inside.record()
    assert (found["image"], found["digest"], found["revision"]) == ("m2mkd:cpu", None, "abc")
    (tmp_path / "provenance.json").write_text('{"name": "m2mkd:cpu", "name": "m2mkd:cuda"}')
    with pytest.raises(InputError, match=r"provenance\.json: not valid JSON: the name 'name' occurs twice"):
        inside.record()
    (tmp_path / "provenance.json").write_text('{"name": "m2mkd:cpu", "revision": "abc"}')
    monkeypatch.setenv(inside.ORDER, "containers/a.sif")
    monkeypatch.setenv(inside.DIGEST, "sha256:12")
    found = inside.record()
    assert (found["image"], found["digest"]) == ("containers/a.sif", "sha256:12")
    assert found["sbom"] == hashlib.sha256(b"parts").hexdigest() != found["lock"]


def test_the_digest_of_the_package_depends_on_names_and_contents_but_not_on_bytecode(tmp_path):
    (tmp_path / "a.py").write_text("1")
    digests = [source_digest(tmp_path)]
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").touch()
    (tmp_path / ".mypy_cache").mkdir()
    (tmp_path / ".mypy_cache" / "a.json").touch()
    (tmp_path / "a.py").chmod(stat.S_IRUSR)
    assert source_digest(tmp_path) == digests[0]
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    digests.append(source_digest(tmp_path))
    (tmp_path / "b.py").unlink()
    (tmp_path / "b.py").write_text("2")
    digests.append(source_digest(tmp_path))
    assert len(set(digests)) == 3
