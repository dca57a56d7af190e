"""Servers that lie, stall, or send more than was asked for: one line, and no more bytes than are expected."""

import gzip
import re
import shutil
import time
from typing import BinaryIO

import pytest

from m2mkd.data import download
from m2mkd.data.fetch import RAW, fetch
from m2mkd.errors import InputError
from tests.unit.data.servers import CONTENT, Answer, answering, dataset, endless, head, sent, whole

pytestmark = pytest.mark.usefixtures("project")


def refused(answer: Answer, message: str, **fields) -> None:
    """Fetch from a server that cannot be fetched from: one line that says why, and nothing is left."""
    with answering(answer) as url, pytest.raises(InputError, match=message) as said:
        fetch("set", dataset(url, **fields), pause=0.001)
    assert str(said.value).isprintable(), "nothing of it steers a terminal"
    assert len(str(said.value)) < 1000
    assert ";" in str(said.value), "says what to do"
    assert not list(RAW.iterdir())


CHUNKED = head("200 OK", "Transfer-Encoding: chunked")
HUGE = head("200 OK", "Content-Length: 999999999999")


@pytest.mark.parametrize("prefix", [HUGE, CHUNKED, head()], ids=["honest length", "chunks", "no length"])
def test_a_body_that_is_longer_than_the_registry_says_is_stopped_at_the_limit(prefix: bytes):
    piece = bytes(1 << 16)
    begun = endless(prefix, b"%x\r\n%s\r\n" % (len(piece), piece) if prefix is CHUNKED else piece)
    refused(begun, r"has .* or more, but at most 105\.0 kB were expected by config/datasets\.yaml; check the address", bytes=100_000)


def test_a_little_more_than_the_registry_says_is_no_fault():
    """It says about how large a file is."""
    with answering(whole()) as url:
        fetch("set", dataset(url, bytes=100_000))
    assert (RAW / "set.zip").read_bytes() == CONTENT


def test_a_file_of_unknown_length_is_stopped_before_the_disk_is_full(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(download, "UNCHECKED", 1 << 20)
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 29))
    with (
        answering(endless(head(), bytes(1 << 16))) as url,
        pytest.raises(InputError, match=r"are still to come, but only 536\.9 MB are free"),
    ):
        fetch("set", dataset(url), pause=0.001)
    assert (RAW / ".set.zip.part").stat().st_size < 4 << 20


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, gzip, gzip", "x-unknown"])
def test_a_compressed_body_is_refused_and_not_unpacked(encoding: str):
    bomb = gzip.compress(bytes(10_000_000))
    answer = sent("200 OK", f"Content-Encoding: {encoding}", f"Content-Length: {len(bomb)}", body=bomb)
    refused(answer, re.escape(f"the server sends it compressed ({encoding}), though asked not to"))


def test_an_identity_that_is_named_is_one():
    with answering(whole("Content-Encoding: Identity")) as url:
        fetch("set", dataset(url))
    assert (RAW / "set.zip").read_bytes() == CONTENT


REFUSALS = {
    "an escape in the reason": (sent("404 \x1b[2JGone\x07"), r"answers 404 \\x1b\[2JGone\\x07; check the address"),
    "a long reason": (sent("404 " + "x" * 10_000), "answers 404 x+; check the address"),
    "no content": (sent("204 No Content"), "answers 204"),
    "a part that nobody asked for": (
        sent("206 Partial Content", "Content-Range: bytes 5-9/10", body=b"56789"),
        "resumes at another position",
    ),
    "a reference to nowhere": (sent("302 Found"), "answers 302"),
    "a reference to itself": (sent("302 Found", "Location: /set.zip"), "redirects too often"),
    "a reference to a file": (sent("302 Found", "Location: file:///etc/passwd"), r"file:///etc/passwd: the server redirects here"),
    "a reference with an escape": (sent("302 Found", "Location: gopher://x/\x1b[2J"), "not a web address"),
    "a reference to no address": (sent("302 Found", "Location: http://[::1"), "the request failed"),
    "several lengths": (sent("200 OK", "Content-Length: 1, 2", body=CONTENT), "the request failed"),
    "a length beyond every disk": (
        sent("200 OK", "Content-Length: " + "9" * 30, body=CONTENT),
        "or more, but at most 274.9 GB were expected",
    ),
    "no answer": (lambda out, _: None, "ConnectionError, 5 times"),
    "no protocol": (lambda out, _: out.write(b"SSH-2.0-OpenSSH\r\n\r\n"), "ConnectionError, 5 times"),
    "a line without end": (lambda out, _: out.write(b"HTTP/1.1 200 " + b"x" * 100_000), "ConnectionError, 5 times"),
    "headers without end": (endless(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"), "ConnectionError, 5 times"),
    "a status that is no number": (sent("abc OK"), "ConnectionError, 5 times"),
    "another file": (sent("200 OK", "Content-Length: 5", body=b"other"), "sha256 is .*, but config/datasets.yaml expects"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_a_server_answers_is_one_line(case: str):
    refused(*REFUSALS[case])


@pytest.mark.parametrize("length", ["abc", "-5", "", "1e3", "\u00b2"])
def test_a_length_that_is_none_is_not_believed(length: str):
    with answering(sent("200 OK", f"Content-Length: {length}", body=CONTENT)) as url:
        fetch("set", dataset(url, bytes=200_000), pause=0.001)
    assert (RAW / "set.zip").read_bytes() == CONTENT


def test_a_chunk_whose_size_is_no_number():
    with answering(lambda out, _: out.write(CHUNKED + b"xyz\r\nabc")) as url, pytest.raises(InputError, match="5 times; 0 bytes are kept"):
        fetch("set", dataset(url), pause=0.001)


def test_a_reference_is_followed_and_what_stands_beside_it_is_not_read():
    def answer(out: BinaryIO, request: str) -> None:
        if "GET /set.zip" in request:
            endless(head("302 Found", "Location: /elsewhere?a=b%20c", "Content-Length: 999999999999"), bytes(1 << 16))(out, request)
        else:
            assert "GET /elsewhere?a=b%20c " in request
            whole()(out, request)

    start = time.monotonic()
    with answering(answer) as url:
        fetch("set", dataset(url))
    assert (RAW / "set.zip").read_bytes() == CONTENT
    assert time.monotonic() - start < 20


def test_a_server_that_goes_on_at_another_place_is_asked_for_all_of_it():
    asked = []

    def answer(out: BinaryIO, request: str) -> None:
        asked.append("Range: bytes=5000-" in request)
        if len(asked) == 1:
            out.write(head("200 OK", f"Content-Length: {len(CONTENT)}", 'ETag: "1"') + CONTENT[:5000])
        elif asked[-1]:
            out.write(head("206 Partial Content", "Content-Length: 3", f"Content-Range: bytes 0-2/{len(CONTENT)}") + b"012")
        else:
            whole('ETag: "1"')(out, request)

    with answering(answer) as url:
        fetch("set", dataset(url, sha256=None), pause=0.001)
    assert (RAW / "set.zip").read_bytes() == CONTENT
    assert asked == [False, True, False]


@pytest.mark.parametrize("mark", ['"\x1b[2J"', 'W/"1"', '"' + "x" * 5000 + '"', '"\u00e9"', "no tag", ""])
def test_a_mark_that_is_none_is_not_sent_back(mark: str):
    asked = []

    def answer(out: BinaryIO, request: str) -> None:
        asked.append("If-Range" in request)
        cut = 3000 if len(asked) == 1 else len(CONTENT)
        out.write(head("200 OK", f"Content-Length: {len(CONTENT)}", f"ETag: {mark}") + CONTENT[:cut])

    with answering(answer) as url:
        fetch("set", dataset(url), pause=0.001)
    assert (RAW / "set.zip").read_bytes() == CONTENT
    assert asked == [False, mark == "no tag"], "what could be a date is taken for one"


def test_every_byte_that_came_is_kept():
    def answer(out: BinaryIO, request: str) -> None:
        start = int(found[1]) if (found := re.search(r"Range: bytes=(\d+)-", request)) else 0
        status = "206 Partial Content" if start else "200 OK"
        rest = (f"Content-Length: {len(CONTENT) - start}", f"Content-Range: bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}", 'ETag: "1"')
        out.write(head(status, *rest) + CONTENT[start : start + 30_001])

    with answering(answer) as url:
        fetch("set", dataset(url), pause=0.0001)
    assert (RAW / "set.zip").read_bytes() == CONTENT


def test_a_server_that_sends_a_byte_now_and_then_is_left(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(download, "SPEED_WINDOW", 0.1)

    def answer(out: BinaryIO, _: str) -> None:
        out.write(head("200 OK", f"Content-Length: {len(CONTENT)}"))
        while True:
            time.sleep(0.02)
            out.write(b"x")

    with answering(answer) as url, pytest.raises(InputError, match=r"bytes arrived in 0\.1 seconds, 5 times; .* bytes are kept"):
        fetch("set", dataset(url), pause=0.001)


def test_attempts_come_to_an_end_that_each_bring_a_byte(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(download, "MOST_ATTEMPTS", 7)
    asked = []

    def answer(out: BinaryIO, request: str) -> None:
        asked.append(request)
        start = len(asked) - 1
        rest = (f"Content-Range: bytes {start}-99/100", f"Content-Length: {100 - start}", 'ETag: "1"')
        out.write(head("206 Partial Content" if start else "200 OK", *rest) + b"x")

    with answering(answer) as url, pytest.raises(InputError, match="7 bytes are kept"):
        fetch("set", dataset(url), pause=0.001)
    assert len(asked) == 7


@pytest.mark.parametrize(
    "url", ["http://[::1/set.zip", "http://", "http:///set.zip", "http://.x./set.zip", "http://a b/", "HTTP://x:99999/", "http:"]
)
def test_what_is_no_address_is_one_line(url: str):
    with pytest.raises(InputError, match=r"(the request failed|ConnectionError, 5 times)"):
        fetch("set", dataset(url), pause=0.0001)


def test_a_password_in_the_address_is_not_told():
    with (
        answering(sent("404 Not here")) as url,
        pytest.raises(InputError, match=r"^http://127\.0\.0\.1:\d+/set\.zip: the server answers 404") as said,
    ):
        fetch("set", dataset(url.replace("//", "//me:secret@")), pause=0.001)
    assert "secret" not in str(said.value)


def test_certificates_that_are_not_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/not/there.pem")
    with pytest.raises(InputError, match=r"the request failed \(.*invalid path: /not/there\.pem\); check the settings of your network"):
        fetch("set", dataset("https://127.0.0.1:9/set.zip"), pause=0.001)
