"""Servers that answer anything, under thousands of damages: the file, or a refusal of one line, and nothing left."""

import shutil
from pathlib import Path
from typing import BinaryIO

from hypothesis import given
from hypothesis import strategies as st

from m2mkd.data.fetch import RAW, fetch
from tests.fuzzing import EDITS, damaged, fuzzed, refused_or_read
from tests.unit.data.servers import CONTENT, answering, dataset

TEXT = st.text(st.characters(min_codepoint=1, max_codepoint=255, exclude_characters="\r\n"), max_size=20)
NUMBER = st.one_of(st.integers(-10, 1 << 70).map(str), st.just(str(len(CONTENT))), TEXT)
HEADERS = {
    "Content-Length": NUMBER,
    "Content-Range": st.one_of(st.builds("bytes {}-{}/{}".format, NUMBER, NUMBER, NUMBER), TEXT),
    "Content-Encoding": st.one_of(st.sampled_from(["gzip", "identity", "br", "deflate, gzip"]), TEXT),
    "Transfer-Encoding": st.one_of(st.just("chunked"), TEXT),
    "Location": st.one_of(st.sampled_from(["/set.zip", "http://[", "file:///etc/passwd", "//", "http://a:b@127.0.0.1:9/"]), TEXT),
    "ETag": st.one_of(st.just('"1"'), TEXT),
    "Last-Modified": TEXT,
    "Set-Cookie": TEXT,
}
HEADER = st.sampled_from(sorted(HEADERS)).flatmap(lambda name: HEADERS[name].map(lambda value: f"{name}: {value}"))
STATUS = st.one_of(
    st.sampled_from(["200 OK", "206 Partial Content", "302 Found", "416 No", "404 \x1b[2J", "503 Later", "999", "abc"]), TEXT
)
ANSWER = st.builds(
    lambda status, headers, body: "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode("latin-1") + body,
    STATUS,
    st.lists(HEADER, max_size=5),
    st.one_of(st.just(CONTENT), st.just(CONTENT[:5000]), st.just(b"5\r\nabcde\r\n0\r\n\r\n"), st.binary(max_size=50)),
)


def test_servers(project: Path):
    """One that answers anything to each request, in turn."""
    answers: list[bytes] = []
    asked = 0

    def answer(out: BinaryIO, _: str) -> None:
        nonlocal asked
        out.write(answers[asked % len(answers)])
        asked += 1

    with answering(answer) as url:

        @fuzzed(250)
        @given(drawn=st.lists(st.one_of(ANSWER, st.tuples(ANSWER, EDITS).map(lambda pair: damaged(*pair))), min_size=1, max_size=3))
        def damage(drawn: list[bytes]) -> None:
            nonlocal asked
            answers[:], asked = drawn, 0
            with refused_or_read():
                fetch("set", dataset(url, bytes=200_000), pause=0)
                assert (RAW / "set.zip").read_bytes() == CONTENT, "what passes is the file"
            left = {path.name for path in RAW.iterdir()}
            assert left <= {"set.zip", ".set.zip.digest", ".set.zip.part", ".set.zip.part.etag"}, "a part is gone on with"
            assert sum(path.stat().st_size for path in RAW.iterdir()) < 300_000
            shutil.rmtree(RAW)

        damage()
