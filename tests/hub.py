"""The endpoints of the Hugging Face hub that publishing and fetching a model need, on loopback; everything is kept in memory."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_writer"


class Hub(ThreadingHTTPServer):
    """Repositories by name, each with its files by commit."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.large: dict[str, bytes] = {}
        """Files of large file storage, by digest."""
        self.asked: list[str] = []
        """Method and path of each request."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def commit_of(self, name: str) -> str:
        content = sorted((path, hashlib.sha1(data).hexdigest()) for path, data in self.repositories[name].items())
        return hashlib.sha1(json.dumps(content).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def _answer(self, content: Any = None, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body))}.items() | headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self._answer({"error": code}, status, X_Error_Code=code, X_Error_Message=code)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _is_writer(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def do_POST(self) -> None:
        hub, body, path = self.server, self._body(), self.path.partition("?")[0]
        hub.asked.append(f"POST {path}")
        if path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif not self._is_writer():
            self._refuse(401, "Unauthorized")
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, [asked.get("organization"), asked["name"]]))
            known = name in hub.repositories
            hub.repositories.setdefault(name, {})
            self._answer({"url": f"{hub.url}/{name}", "name": name}, 409 if known else 200)
        elif found := re.fullmatch(r"/api/models/(.+)/preupload/main", path):
            files = [{"path": one["path"], "uploadMode": _mode(one["path"]), "shouldIgnore": False} for one in json.loads(body)["files"]]
            self._answer({"files": files})
        elif re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
            objects = [one | {"actions": {"upload": {"href": f"{hub.url}/large/{one['oid']}"}}} for one in json.loads(body)["objects"]]
            self._answer({"transfer": "basic", "objects": objects}, Content_Type="application/vnd.git-lfs+json")
        elif found := re.fullmatch(r"/api/models/(.+)/commit/main", path):
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    hub.repositories[found[1]][value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    hub.repositories[found[1]][value["path"]] = hub.large[value["oid"]]
            commit = hub.commit_of(found[1])
            self._answer({"commitOid": commit, "commitUrl": f"{hub.url}/{found[1]}/commit/{commit}", "success": True})
        else:
            self._refuse(404, "NotFound")

    def do_PUT(self) -> None:
        hub, content = self.server, self._body()
        hub.asked.append(f"PUT {self.path}")
        digest = self.path.rpartition("/")[2]
        if hashlib.sha256(content).hexdigest() != digest:
            self._refuse(400, "BadDigest")
            return
        hub.large[digest] = content
        self._answer({})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        hub.asked.append(f"{self.command} {path}")
        asked = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        matched = asked or file
        name, revision = (matched[1], matched[2]) if matched else ("", None)
        if name not in hub.repositories:
            self._refuse(404, "RepoNotFound")
            return
        commit = hub.commit_of(name)
        if revision not in (None, "main", commit):
            self._refuse(404, "RevisionNotFound")
        elif asked:
            self._answer({"_id": "1", "id": name, "modelId": name, "sha": commit, "private": False, "tags": [], "siblings": []})
        elif file and file[3] in hub.repositories[name]:
            content = hub.repositories[name][file[3]]
            self._answer(content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', X_Repo_Commit=commit)
        else:
            self._refuse(404, "EntryNotFound")

    def log_message(self, *_: object) -> None:
        pass


def _mode(path: str) -> str:
    return "lfs" if path.endswith(".safetensors") else "regular"


@contextmanager
def serving_hub() -> Iterator[Hub]:
    """A running hub without repositories."""
    with Hub() as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()
