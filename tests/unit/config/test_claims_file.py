"""The file of claims: what is wrong in it is refused by line and field."""

from pathlib import Path

import pytest

from m2mkd.config.claims import load_claims
from m2mkd.errors import InputError
from tests.claimed import CLAIM


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"direction": "value"}, "does not fit direction value"),
        ({"comparison": "a"}, "does not fit direction greater"),
        ({"subject": "paper"}, "cannot judge a claim of the paper"),
        ({"direction": "equal"}, "equal has no size"),
        ({"direction": "greater", "size": None, "aggregate": "best"}, "aggregate"),
        ({"size": "five"}, "size: .*valid number"),
        ({"population": "one,,two"}, "population"),
        ({"population": "one,two,one"}, "occurs twice in the population"),
        ({"comparison": "a - one/a"}, "is compared with itself"),
        ({"size": "-5"}, "size above 0"),
        ({"size": "nan"}, "size: .*finite"),
        ({"tolerance": "inf"}, "tolerance: .*finite"),
        ({"direction": "value", "comparison": "a", "unit": "relative"}, "accuracy in percent"),
        ({"direction": "value", "comparison": "a", "size": "101"}, "accuracy in percent"),
        ({"tolerance": "1.7"}, "tolerance 1.7 is more than a third of size 5"),
        ({"seeds": "5"}, "seeds 5 cannot decide; write at least 6, or 1"),
        ({"seeds": "1"}, "seeds 1 cannot decide"),  # of a gain
        ({"seeds": "1", "direction": "value", "comparison": "a", "aggregate": "mean"}, "seeds 1 cannot decide"),
    ],
)
def test_a_wrong_row_is_refused_by_line_and_field(tmp_path: Path, changes, message):
    row = CLAIM.model_dump(mode="json") | {"population": "one"} | {name: "" if value is None else value for name, value in changes.items()}
    path = tmp_path / "claims.tsv"
    path.write_text("\t".join(row) + "\n" + "\t".join(str(value) for value in row.values()) + "\n")
    with pytest.raises(InputError, match=f"claims.tsv, line 2: .*{message}"):
        load_claims(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda line: line[:-2], "line 3: does not have [0-9]+ cells"),
        (lambda line: line + b"\tmore", "line 3: does not have [0-9]+ cells"),
        (lambda line: line.replace(b"better", b"b\xe9tter"), "claims.tsv: not a table in UTF-8"),
        (lambda line: line.replace(b"greater", b"grater"), "line 3: direction"),
    ],
)
def test_a_damaged_file_is_refused_by_line(tmp_path: Path, change, message):
    row = CLAIM.model_dump(mode="json") | {"population": "one"}
    lines = ["\t".join(row).encode(), b"", change("\t".join(str(value) for value in row.values()).encode())]
    (tmp_path / "claims.tsv").write_bytes(b"\n".join(lines))
    with pytest.raises(InputError, match=message):
        load_claims(tmp_path / "claims.tsv")


def test_an_id_stands_once(tmp_path: Path):
    row = CLAIM.model_dump(mode="json") | {"population": "one"}
    line = "\t".join(str(value) for value in row.values())
    (tmp_path / "claims.tsv").write_text("\n".join(["\t".join(row), line, line]))
    with pytest.raises(InputError, match="line 3: id gain occurs twice"):
        load_claims(tmp_path / "claims.tsv")
