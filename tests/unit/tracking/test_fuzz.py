"""MLflow servers that answer anything, under many damages: a refusal of one line, whatever its parsers raise."""

import json
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2mkd.errors import InputError
from m2mkd.tracking.address import URI_VARIABLE
from m2mkd.tracking.store import open_store
from tests.fuzzing import EDITS, damaged, fuzzed, refused_or_read
from tests.unit.data.servers import answering, head

RUN = {
    "info": {"run_id": "a" * 32, "experiment_id": "1", "status": "FINISHED", "start_time": 1},
    "data": {"tags": [{"key": "k", "value": "v"}]},
}
ANSWERS = {
    "experiments/get-by-name": {"experiment": {"experiment_id": "1", "name": "m2mkd/smoke", "lifecycle_stage": "active", "tags": []}},
    "runs/search": {"runs": [RUN]},
}
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from(["\x1b[2J", 2**70, "", "deleted"])
ANYTHING = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3))
BODY = st.one_of(
    ANYTHING.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(st.sampled_from(["experiment", "runs", "next_page_token", "error_code", "message"]), ANYTHING).map(
        lambda value: json.dumps(value).encode()
    ),
    st.sampled_from(
        [b"", b"<html>", b"[" * 5000, b"{" * 5000, b"\xff", b'{"runs": [{"info": 7}]}', b'{"experiment": {"experiment_id": [1]}}']
    ),
)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its answers by the ends of their addresses; whatever is not there is answered as it should be."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    odd: dict[str, tuple[str, bytes]] = {}

    def answer(out: BinaryIO, request: str) -> None:
        place = request.split()[1]
        for name, content in ANSWERS.items():
            if name in place:
                status, body = odd.get(name, ("200 OK", json.dumps(content).encode()))
                out.write(head(status, "Content-Type: application/json", f"Content-Length: {len(body)}") + body)
                return
        out.write(head("404 Not Found", "Content-Length: 2") + b"{}")

    with answering(answer) as url:
        monkeypatch.setenv(URI_VARIABLE, url.removesuffix("/set.zip"))
        yield odd


def look() -> int:
    with open_store("m2mkd/smoke") as store:
        store.look()
        return len(store.listed)


def test_answers_as_they_should_be_are_read(server):
    assert look() == 1


@pytest.mark.parametrize(
    "body", [b"[1]", b'"x"', b"7", b'{"experiment": 7}', b'{"experiment": {"experiment_id": [1]}}', b"{" * 5000, b"\xff"]
)
def test_an_answer_that_is_none_of_mlflow_is_refused(server, body: bytes):
    server["experiments/get-by-name"] = "200 OK", body
    with pytest.raises(InputError, match="MLflow"):
        look()


def test_pages_without_end_are_refused(server):
    server["runs/search"] = "200 OK", json.dumps({"runs": [RUN], "next_page_token": "again"}).encode()
    with pytest.raises(InputError, match="the same page again and again"):
        look()


def test_servers(server, tmp_path: Path):
    @fuzzed(150)
    @given(
        name=st.sampled_from(sorted(ANSWERS)),
        status=st.sampled_from(["200 OK", "200 OK", "200 OK", "400 \x1b[2J", "404 Not Found", "500 Oh", "302 Found"]),
        body=BODY,
        edits=st.none() | EDITS,
    )
    def damage(name: str, status: str, body: bytes, edits: list[Any] | None) -> None:
        server.clear()
        server[name] = status, body if edits is None else damaged(json.dumps(ANSWERS[name]).encode(), edits)
        with refused_or_read():
            look()

    damage()
    assert list(tmp_path.iterdir()) == []
