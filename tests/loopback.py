"""A file server on loopback that answers ranges, and can be made to drop connections, refuse and lie."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Server(ThreadingHTTPServer):
    """Serves files by name, each given as its content or as the path of a file."""

    etag, ranges, status = '"1"', True, 0
    modified = "Mon, 26 Feb 2024 00:00:00 GMT"

    def __init__(self, files: Mapping[str, bytes | Path]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.drops: dict[str, int] = {}
        """Bytes after which the next connection for a file is dropped."""
        self.asked: list[tuple[str, str | None]] = []
        """Name and range of each request."""
        self.continued = 0
        """Answers that went on where an earlier one ended."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def content(self, name: str) -> bytes:
        found = self.files[name]
        return found if isinstance(found, bytes) else found.read_bytes()


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self._head()

    def do_GET(self) -> None:
        name, asked = self.path.rpartition("/")[2], self.headers.get("Range")
        self.server.asked.append((name, asked))
        rest = self._head(asked)
        if name in self.server.drops:
            rest = rest[: self.server.drops.pop(name)]
            self.close_connection = True
        self.wfile.write(rest)

    def _head(self, asked: str | None = None) -> bytes:
        """Answer with the headers, and give what is to follow them."""
        server, name = self.server, self.path.rpartition("/")[2]
        if server.status or name not in server.files:
            self.send_error(server.status or 404)
            return b""
        rest = server.content(name)
        strong = {server.modified} if server.etag.startswith("W/") else {server.modified, server.etag}
        if asked and server.ranges and self.headers.get("If-Range") in strong:
            start, size = int(asked.removeprefix("bytes=").removesuffix("-")), len(rest)
            rest = rest[start:]
            server.continued += 1
            self.send_response(206 if rest else 416)
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}" if rest else f"bytes */{size}")
        else:
            self.send_response(200)
        self.send_header("ETag", server.etag)
        self.send_header("Last-Modified", server.modified)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        return rest

    def log_message(self, *_) -> None:
        pass


@contextmanager
def serving(files: Mapping[str, bytes | Path]) -> Iterator[Server]:
    """A running server of these files."""
    with Server(files) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
