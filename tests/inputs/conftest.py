"""A hub on loopback: the four requests that huggingface_hub's snapshot_download makes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves directories as repositories of one commit."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Path] = {}
        self.url = f"http://127.0.0.1:{self.server_port}"

    def add(self, kind: str, name: str, directory: Path) -> None:
        self.repositories[f"{kind}s/{name}"] = directory


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = unquote(self.path.split("?")[0]).strip("/")
        for repository, directory in self.server.repositories.items():
            files = {str(file.relative_to(directory)): file for file in directory.rglob("*") if file.is_file()}
            resolve = repository.removeprefix("models/") + f"/resolve/{COMMIT}/"
            if path.startswith(resolve) and path.removeprefix(resolve) in files:
                content = files[path.removeprefix(resolve)].read_bytes()
                etag = hashlib.sha256(content).hexdigest()
                return self.send(200, content if body else b"", len(content), etag)
            if path.startswith(f"api/{repository}/tree/"):
                rows = [{"type": "file", "path": n, "size": f.stat().st_size, "oid": n} for n, f in files.items()]
                return self.send_json(200, rows)
            if path.startswith(f"api/{repository}/revision/") or path == f"api/{repository}":
                siblings = [{"rfilename": name} for name in sorted(files)]
                return self.send_json(200, {"id": repository, "sha": COMMIT, "siblings": siblings, "private": False})
        return self.send_json(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})

    def send_json(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(value).encode()
        self.send(status, content, len(content), "", headers)

    def send(self, status: int, content: bytes, length: int, etag: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()
