"""Servers that answer whatever a test wants, and a data set whose one file they hold."""

import hashlib
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from m2mkd.config.datasets import DatasetConfig, SourceFile

CONTENT = bytes(range(256)) * 400
SHA256 = hashlib.sha256(CONTENT).hexdigest()
Answer = Callable[[BinaryIO, str], object]
"""Writes an answer to a request, whose text it is given."""


@contextmanager
def answering(answer: Answer) -> Iterator[str]:
    """Address of a server that answers each request so."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            request = b"".join(iter(self.rfile.readline, b"\r\n")).decode()
            with suppress(OSError):  # the client has heard enough
                answer(self.wfile, request)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/set.zip"
        server.shutdown()


def dataset(url: str | None, **fields) -> DatasetConfig:
    source = SourceFile(name="set.zip", url=url, **{"sha256": SHA256} | fields)
    return DatasetConfig(title="A set", layout="image_folder", classes=2, licence="none", files=(source,), obtain="ask its makers")


def head(status: str = "200 OK", *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "Connection: close", "", ""]).encode("latin-1")


def sent(status: str, *headers: str, body: bytes = b"") -> Answer:
    return lambda out, _: out.write(head(status, *headers) + body)


def whole(*headers: str) -> Answer:
    return sent("200 OK", f"Content-Length: {len(CONTENT)}", *headers, body=CONTENT)


def endless(prefix: bytes, piece: bytes) -> Answer:
    def answer(out: BinaryIO, _: str) -> None:
        out.write(prefix)
        while True:
            out.write(piece)

    return answer
