"""Crates that were tampered with: each is refused by name, whatever a forger has made right again."""

import json
import re
import shutil
from pathlib import Path
from urllib.parse import quote

import pytest
from typer.testing import CliRunner

from m2mkd.cli import app
from m2mkd.config import load
from m2mkd.data.manifest import manifest_digest
from m2mkd.errors import InputError
from m2mkd.files import sha256
from m2mkd.results.crate.check import check_crate
from m2mkd.results.crate.write import write_crate
from m2mkd.results.judge.results import Results
from m2mkd.results.report.write import write_report
from m2mkd.results.tables.compile import compile_tables
from m2mkd.study.keys import digest, sealed
from tests.fabricated import first
from tests.unit.results.crates import edit, sign


def rewrite(path: Path, text: str) -> None:
    path.unlink()  # a link to the project's own
    path.write_text(text)


def forge(folder: Path, path: str, change) -> None:
    """Change a file that carries its own digest, and make all digests of it right again, as a forger would."""
    content = json.loads((folder / path).read_text())
    change(content)
    rewrite(folder / path, json.dumps(sealed(content)))
    sign(folder, path)


def forget(folder: Path, run: str) -> None:
    """Leave a record out of the manifest and the metadata's digests, as if it had never been written."""
    manifest = folder / "manifest-sha256.txt"
    manifest.write_text(re.sub(rf"\w+  {re.escape(run)}\n", "", manifest.read_text()))
    edit(folder, lambda found: found[run].pop("sha256"))
    sign(folder)


def receipt_of(folder: Path, kind: str = "study") -> str:
    return next(folder.glob(f"results/smoke/tables/{kind}-*.json")).relative_to(folder).as_posix()


def replace_a_table(folder: Path, run: str) -> None:
    table = Path(run).parents[2] / "tables/claims.csv"
    rewrite(folder / table, "id,verdict\n")
    sign(folder, str(table))


def replace_a_table_and_its_receipt(folder: Path, run: str, name: str = "tables/results.csv") -> None:
    path = f"results/smoke/{name}"
    rewrite(folder / path, (folder / path).read_text().replace("0.93", "0.99"))
    sign(folder, path)
    forge(folder, receipt_of(folder), lambda receipt: receipt["shown"].update({name: sha256(folder / path)}))


def replace_a_measurement(folder: Path, run: str) -> None:
    """Other accuracies, with every digest that follows, but the old tables."""
    record = sorted((folder / Path(run).parents[1]).glob("evaluate/*/run.json"))[0].relative_to(folder)
    metrics = record.with_name("metrics.json")
    content = json.loads((folder / metrics).read_text())
    rewrite(folder / metrics, json.dumps(content | {"top1": 0.99}))
    sign(folder, str(metrics))
    forge(folder, str(record), lambda found: found["outputs"].update({"metrics.json": sha256(folder / metrics)}))
    outputs = digest(json.loads((folder / record).read_text())["outputs"])
    forge(folder, receipt_of(folder), lambda receipt: receipt["runs"].update({"/".join(record.parts[-3:-1]): outputs}))


def replace_a_set(folder: Path, run: str) -> None:
    path = next(folder.glob("data/packed/digits@32/*/manifest.json")).relative_to(folder)
    content = {name: value for name, value in json.loads((folder / path).read_text()).items() if name != "digest"}
    content["classes"] = content["classes"][::-1]
    rewrite(folder / path, json.dumps(content | {"digest": manifest_digest(content)}))
    sign(folder, str(path))


def lead_out(folder: Path, run: str) -> None:
    path = folder / run / "metrics.json"
    (folder.parent / "outside.json").write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(folder.parent / "outside.json")


def forget_an_evaluation(folder: Path, run: str) -> None:
    record = sorted((folder / Path(run).parents[1]).glob("evaluate/*/run.json"))[0]
    forget(folder, str(record.relative_to(folder)))


def remove(folder: Path, path: str) -> None:
    """Remove a file and every trace of it."""
    (folder / path).unlink()
    manifest = folder / "manifest-sha256.txt"
    manifest.write_text(re.sub(rf"\w+  {re.escape(path)}\n", "", manifest.read_text()))
    metadata = folder / "ro-crate-metadata.json"
    content = json.loads(metadata.read_text())
    content["@graph"] = [entity for entity in content["@graph"] if entity["@id"] != quote(path)]
    for entity in content["@graph"]:
        for name, value in entity.items():
            if isinstance(value, list):
                entity[name] = [one for one in value if one != {"@id": quote(path)}]
    metadata.write_text(json.dumps(content))
    sign(folder)


def without_action(folder: Path, run: str) -> None:
    edit(folder, lambda found: found[f"#run/{'/'.join(Path(run).parts[-2:])}"].update({"@type": "Thing"}))
    sign(folder)


DAMAGES = {
    "table": (replace_a_table, r"claims\.csv: differs from its digest in study-\w+\.json"),
    "table and receipt": (replace_a_table_and_its_receipt, r"results\.csv: differs from what its runs give when they are compiled again"),
    "metrics and receipt": (
        lambda crate, run: replace_a_table_and_its_receipt(crate, run, "metrics.json"),
        r"smoke/metrics\.json: differs from what its runs give when they are compiled again",
    ),
    "measurement": (replace_a_measurement, r"differs from what its runs give when they are compiled again \(\d+ more\)"),
    "report": (
        lambda crate, run: [rewrite(crate / "results/smoke/report.html", "0.99"), sign(crate, "results/smoke/report.html")],
        r"report\.html: differs from its digest in report-\w+\.json",
    ),
    "receipt": (lambda crate, run: remove(crate, receipt_of(crate)), r"results: has 0 receipts of tables"),
    "receipt of the report": (lambda crate, run: remove(crate, receipt_of(crate, "report")), r"report-\w+\.json: absent"),
    "receipt of others": (
        lambda crate, run: forge(crate, receipt_of(crate), lambda receipt: receipt["runs"].popitem()),
        "is not the receipt of this study",
    ),
    "format": (
        lambda crate, run: forge(crate, receipt_of(crate), lambda receipt: receipt.update(format=3)),
        r"is of tables of format 3, but this version compiles format \d",
    ),
    "evaluation": (forget_an_evaluation, r"study-\w+\.json: lists evaluate/\w+, which is not in the crate"),
    "changed": (
        lambda crate, run: rewrite(crate / run / "metrics.json", "{}"),
        r"metrics\.json: sha256 is .* but manifest-sha256\.txt says",
    ),
    "gone": (lambda crate, run: (crate / run / "metrics.json").unlink(), r"metrics\.json: absent, though manifest"),
    "signed": (
        lambda crate, run: [rewrite(crate / run / "metrics.json", "{}"), sign(crate, f"{run}/metrics.json")],
        r"metrics\.json: sha256 is .*, but the run recorded",
    ),
    "weights": (
        lambda crate, run: [rewrite(crate / run / "model.safetensors", "others"), sign(crate, f"{run}/model.safetensors")],
        r"model\.safetensors: not the file that run\.json",
    ),
    "unsealed": (
        lambda crate, run: [rewrite(crate / run / "run.json", "{}"), sign(crate, f"{run}/run.json")],
        r"run\.json: not a complete record",
    ),
    "sealed": (
        lambda crate, run: [
            rewrite(crate / run / "run.json", (crate / run / "run.json").read_text().replace('"Linux"', '"Lunix"')),
            sign(crate, f"{run}/run.json"),
        ],
        r"run\.json: is damaged: its content does not match its digest",
    ),
    "configuration": (
        lambda crate, run: forge(crate, f"{run}/run.json", lambda record: record["config"]["recipe"].update(lr=0.5)),
        "key does not follow from its config",
    ),
    "upstream": (lambda crate, run: forget(crate, f"{run}/run.json"), r"lists train_student/\w+, which is not in the crate"),
    "outputs": (
        lambda crate, run: forge(crate, f"{run}/run.json", lambda record: record.update(outputs=None)),
        "not a complete record of a run",
    ),
    "names of outputs": (
        lambda crate, run: forge(crate, f"{run}/run.json", lambda record: record["outputs"].update({"../../../etc/passwd": "0" * 64})),
        r"run\.json: outputs are .*\.\./\.\./\.\./etc/passwd, which are not those of train_student",
    ),
    "roles": (
        lambda crate, run: forge(crate, f"{run}/run.json", lambda record: record.update(upstream={"a": 1})),
        "not a complete record of a run",
    ),
    "provenance": (
        lambda crate, run: forge(crate, f"{run}/run.json", lambda record: record.pop("provenance")),
        r"not a complete record of a run \(KeyError: 'provenance'",
    ),
    "part of provenance": (
        lambda crate, run: forge(crate, f"{run}/run.json", lambda record: record["provenance"].pop("git_commit")),
        r"run\.json: provenance has no git_commit",
    ),
    "action": (without_action, r"run\.json: the metadata has no action for this run"),
    "data of a run": (
        lambda crate, run: forge(crate, f"{run}/run.json", lambda record: record["data"].update({"digits@32": "0" * 64})),
        r"run\.json: the run used digits@32 with digest 0{12}\.\.\., but data/packed/digits@32/\w+ is ",
    ),
    "no data of a run": (
        lambda crate, run: forge(crate, f"{run}/run.json", lambda record: record.pop("data")),
        r"run\.json: does not say which data the run used",
    ),
    "set": (replace_a_set, r"run\.json: the run used digits@32 with digest \w+\.\.\., but data/packed/digits@32/\w+ is .*more"),
    "no set": (
        lambda crate, run: remove(crate, next(crate.glob("data/packed/digits@32/*/*.json")).relative_to(crate).as_posix()),
        r"digits@32/\w+/manifest\.json: is not in the crate, but its runs used that set",
    ),
    "link out": (lead_out, r"metrics\.json: leads out of the crate, to /"),
    "description": (
        lambda crate, run: [edit(crate, lambda found: found["Makefile"].update(sha256="0")), sign(crate)],
        "sha256 of Makefile is not that",
    ),
    "path": (
        lambda crate, run: (crate / "manifest-sha256.txt").write_text("0" * 64 + "  ../x\n"),
        "line 1: not a sha256 and a path within",
    ),
    "twice": (
        lambda crate, run: (crate / "manifest-sha256.txt").write_text(2 * ("0" * 64 + "  README.md\n")),
        r"line 2: README\.md occurs twice",
    ),
    "encoding": (lambda crate, run: (crate / "manifest-sha256.txt").write_bytes(b"\xff"), r"manifest-sha256\.txt: byte 0 is not UTF-8"),
    "metadata": (lambda crate, run: (crate / "ro-crate-metadata.json").write_text("{}"), "not the metadata of an RO-Crate"),
    "metadata with numbers for ids": (
        lambda crate, run: [edit(crate, lambda found: found["Makefile"].update({"@id": 7})), sign(crate)],
        r"ro-crate-metadata\.json: not the metadata of an RO-Crate",
    ),
    "metadata with numbers for types": (
        lambda crate, run: [edit(crate, lambda found: found["Makefile"].update({"@type": 7})), sign(crate)],
        r"ro-crate-metadata\.json: not the metadata of an RO-Crate",
    ),
    "metadata nested too deep": (
        lambda crate, run: (crate / "ro-crate-metadata.json").write_text('{"@graph": ' + "[" * 100_000),
        r"ro-crate-metadata\.json: not valid JSON: it is nested too deep",
    ),
    "metadata in Latin-1": (
        lambda crate, run: (crate / "ro-crate-metadata.json").write_bytes(b'{"name": "\xe9"}'),
        r"ro-crate-metadata\.json: not valid JSON: byte 10 is not UTF-8",
    ),
    "none": (lambda crate, run: (crate / "ro-crate-metadata.json").unlink(), "absent, so this is not a crate"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_crate_that_was_tampered_with_is_refused_by_name(crate, crate_study, tmp_path, name):
    damage, message = DAMAGES[name]
    elsewhere = tmp_path / "elsewhere"
    shutil.move(crate, elsewhere)
    damage(elsewhere, crate_study.folder(first(crate_study, "train_student").id))
    with pytest.raises(InputError, match=message):
        check_crate(elsewhere)


def test_cells_that_are_escaped_are_compared_as_they_are_written(crate, crate_study):
    numbers = Path("results/published/m2mkd.csv")
    numbers.write_text(numbers.read_text() + "vmoe_base,m2mkd,iid,top1,1.5,=1+1,a table,VERIFIED\n")
    registry = Path("config/datasets.yaml")
    registry.write_text(registry.read_text().replace("handwritten digits (test part)", "handwritten digits | test part"))
    load.forget_files()
    compile_tables(Results.read(crate_study))
    write_report(Results.read(crate_study))
    shutil.rmtree(crate)
    write_crate(Results.read(crate_study))
    table = "results/smoke/tables/results.csv"
    assert ",'=1+1," in (crate / table).read_text()
    assert all(r"handwritten digits \| test part" in card.read_text() for card in (crate / "cards").iterdir())
    check_crate(crate)
    rewrite(crate / table, (crate / table).read_text().replace("'=1+1", "=1+1"))
    sign(crate, table)
    forge(crate, receipt_of(crate), lambda receipt: receipt["shown"].update({"tables/results.csv": sha256(crate / table)}))
    with pytest.raises(InputError, match=r"results\.csv: differs from what its runs give when they are compiled again"):
        check_crate(crate)


def test_names_in_a_crate_are_shown_and_not_obeyed(crate):
    edit(crate, lambda found: found["./"].update(name="study \x1b[2J"))
    sign(crate)
    (crate / "more\x1b[31m.txt").touch()
    said = CliRunner().invoke(app, ["crate", "check", str(crate)]).stdout
    assert said.startswith(r"study \x1b[2J: ") and said.endswith("such as more\\x1b[31m.txt\n")


def test_what_is_not_of_the_study_goes_into_no_crate(crate, crate_study):
    shutil.rmtree(crate)
    weights = Path(crate_study.folder(first(crate_study, "train_student").id), "model.safetensors")
    good = weights.read_bytes()
    rewrite(weights, "others")
    with pytest.raises(InputError, match=r"model\.safetensors: its sha256 is not the recorded one"):
        write_crate(Results.read(crate_study))
    assert list(Path(crate_study.root).glob(".crate*")) == [] and not crate.exists()
    weights.write_bytes(good)
    table = Path(crate_study.root, "tables", "results.csv")
    rewrite(table, table.read_text().replace("0.93", "0.99"))
    with pytest.raises(InputError, match=r"results\.csv: its sha256 is not the recorded one"):
        write_crate(Results.read(crate_study))
    Path(crate_study.root, "tables", f"study-{crate_study.key}.json").unlink()
    with pytest.raises(InputError, match="tables and report are not those of this study"):
        write_crate(Results.read(crate_study))
