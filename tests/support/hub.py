"""A small model hub on loopback: the endpoints that huggingface_hub calls to look up, download and upload repositories.

It keeps repositories in memory, gates them, and knows two tokens. Files named ``*.safetensors`` go the way of large
files (LFS), others inside the commit, as on the real hub.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

MEMBER, STRANGER = "hf_member", "hf_stranger"
"""Tokens: the first has access to everything, the second to nothing gated and no right to write."""


@dataclass
class Repository:
    """Files by path, for each revision; a revision's commit is a digest of its files."""

    revisions: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    gated: bool = False

    def commit(self, revision: str) -> str:
        digest = hashlib.sha1(usedforsecurity=False)
        for path, content in sorted(self.revisions[revision].items()):
            digest.update(path.encode() + b"\0" + hashlib.sha256(content).digest())
        return digest.hexdigest()

    def resolve(self, revision: str) -> str | None:
        """The name of a revision that is given by name or by commit."""
        return next((name for name in self.revisions if revision in (name, self.commit(name))), None)


@dataclass
class Hub:
    """A running hub: its address, what it holds (``models/org/name``), and the requests that it got."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    large_files: dict[str, bytes] = field(default_factory=dict)

    def add(self, name: str, files: dict[str, bytes], *, kind: str = "models", gated: bool = False) -> Repository:
        repository = Repository({"main": files}, gated)
        self.repositories[f"{kind}/{name}"] = repository
        return repository


@contextmanager
def serve() -> Iterator[Hub]:
    """Runs a hub while the body does."""
    hub = Hub()
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub})) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield hub
        finally:
            server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, body: bytes | dict | list = b"", headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        kind = {} if isinstance(body, bytes) else {"Content-Type": "application/json"}
        for name, value in {"Content-Length": str(len(content)), **kind, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, status: int, code: str, message: str) -> None:
        self.answer(status, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message})

    @property
    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        if self.token not in ("", MEMBER, STRANGER):
            return self.answer(401, {"error": "Invalid credentials"})
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if parts[0] == "api" and len(parts) >= 4:
            return self._about("/".join(parts[1:4]), parts[4:])
        if "resolve" in parts:
            split = parts.index("resolve")
            kind = [] if parts[0] == "datasets" else ["models"]
            return self._file("/".join(kind + parts[:split]), parts[split + 1], "/".join(parts[split + 2 :]))
        return self.answer(200)

    def _about(self, name: str, rest: list[str]) -> None:
        """``/api/KIND/ORG/NAME``, ``.../revision/R``, ``.../tree/R``."""
        repository = self.hub.repositories.get(name)
        if repository is None:
            return self.refuse(401 if not self.token else 404, "RepoNotFound", "Repository not found")
        revision = repository.resolve(rest[1] if len(rest) > 1 else "main")
        if revision is None:
            return self.refuse(404, "RevisionNotFound", "Invalid rev id")
        files = repository.revisions[revision]
        if rest[:1] == ["tree"]:
            return self.answer(200, [_entry(path, content) for path, content in files.items()])
        siblings = [{"rfilename": path} for path in files]
        kind, _, repo_id = name.partition("/")
        about = {"id": repo_id, "sha": repository.commit(revision), "siblings": siblings, "tags": [], "private": False}
        return self.answer(200, {**about, "gated": "manual" if repository.gated else False, kind[:-1] + "Id": repo_id})

    def _file(self, name: str, revision: str, path: str) -> None:
        """``/ORG/NAME/resolve/R/PATH``."""
        repository = self.hub.repositories.get(name)
        if repository is None:
            return self.refuse(401 if not self.token else 404, "RepoNotFound", "Repository not found")
        if repository.gated and self.token != MEMBER:
            return self.refuse(403 if self.token else 401, "GatedRepo", f"Access to {name} is restricted")
        known = repository.resolve(revision)
        content = repository.revisions[known].get(path) if known else None
        if content is None:
            return self.refuse(404, "EntryNotFound", "Entry not found")
        entry = _entry(path, content)
        etag = entry.get("lfs", entry)["oid"]
        return self.answer(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": repository.commit(known)})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.hub.requests.append(f"POST {self.path}")
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if parts == ["api", "validate-yaml"]:
            return self.answer(200, {"errors": [], "warnings": []})
        if self.token != MEMBER:
            return self.answer(403 if self.token else 401, {"error": "no right to write"})
        if parts == ["api", "repos", "create"]:
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'member'}/{wanted['name']}"
            if f"models/{name}" in self.hub.repositories:
                return self.answer(409, {"error": "exists", "url": f"{self.hub.url}/{name}"})
            self.hub.add(name, {})
            return self.answer(200, {"url": f"{self.hub.url}/{name}", "id": name})
        if parts[-3:] == ["lfs", "objects", "batch"]:
            objects = [self._action(wanted) for wanted in json.loads(body)["objects"]]
            return self.answer(200, {"transfer": "basic", "objects": objects})
        repository = self.hub.repositories["/".join(parts[1:4])]
        if parts[4] == "branch":
            if parts[5] in repository.revisions:
                return self.answer(409, {"error": "exists"})
            repository.revisions[parts[5]] = dict(repository.revisions["main"])
            return self.answer(201)
        if parts[4] == "preupload":
            paths = [entry["path"] for entry in json.loads(body)["files"]]
            modes = {path: "lfs" if path.endswith(".safetensors") else "regular" for path in paths}
            files = [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]
            return self.answer(200, {"files": files})
        return self._commit("/".join(parts[2:4]), repository, parts[5], body)

    def _action(self, wanted: dict) -> dict:
        href = f"{self.hub.url}/upload/{wanted['oid']}"
        return {"oid": wanted["oid"], "size": wanted["size"], "actions": {"upload": {"href": href}}}

    def _commit(self, name: str, repository: Repository, revision: str, body: bytes) -> None:
        files = repository.revisions.setdefault(revision, {})
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.large_files[value["oid"]]
        commit = repository.commit(revision)
        self.answer(200, {"success": True, "commitOid": commit, "commitUrl": f"{self.hub.url}/{name}/commit/{commit}"})

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.hub.large_files[self.path.rsplit("/", 1)[1]] = content
        self.answer(200)


def _entry(path: str, content: bytes) -> dict:
    """A file of a tree, which has git's digest, and its own if it is large."""
    oid = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    large = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    entry = {"type": "file", "path": path, "size": len(content), "oid": oid}
    return entry | {"lfs": large} if path.endswith(".safetensors") else entry
