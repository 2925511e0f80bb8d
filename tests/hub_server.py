"""A small look-alike of the Hugging Face Hub on 127.0.0.1, for the real client (huggingface_hub) to talk to.

It answers what the client asks when it downloads files and uploads a folder: status codes, error codes and headers are
those of the Hub. Every request is logged. Tests take it as the fixture `hub` (conftest.py).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

# The one token that may read gated repositories and write.
TOKEN = "hf_lookalike"

# Files that the Hub keeps outside git, and serves through a redirect.
LARGE = (".safetensors", ".bin")


@dataclass(frozen=True)
class Request:
    """One request: `GET /org/name/resolve/main/config.json`."""

    method: str
    path: str


@dataclass
class Repository:
    """Commits by their hash, each a set of files, and what branches and tags point to."""

    gated: bool = False
    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], revision: str) -> str:
        """Add a commit that holds exactly `files`, and let `revision` point to it."""
        content = repr(sorted((name, hashlib.sha1(data).hexdigest()) for name, data in files.items()))
        sha = hashlib.sha1(f"{len(self.commits)} {content}".encode()).hexdigest()
        self.commits[sha] = files
        self.references[revision] = sha
        return sha

    def find(self, revision: str) -> str | None:
        """The hash of a branch, tag or commit."""
        return self.references.get(revision) or (revision if revision in self.commits else None)


class HubServer:
    """The server; it listens from construction to `stop`.

    Attributes:
        url: what HF_ENDPOINT is set to.
        requests: all of them, in order.
        repositories: by `org/name`.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.repositories: dict[str, Repository] = {}
        self.large_files: dict[str, bytes] = {}
        self.failing: int | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close the port: from now on connections are refused."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fail(self, status: int | None) -> None:
        """Answer every request with this status; None ends it."""
        self.failing = status

    def add_repo(
        self, repo_id: str, directory: Path | str, *, revision: str = "main", gated: bool = False, private: bool = False
    ) -> str:
        """Publish the files of a directory under a branch or tag; returns the commit's hash."""
        root = Path(directory)
        files = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        repository = self.repositories.setdefault(repo_id, Repository())
        repository.gated, repository.private = gated, private
        return repository.commit(files, revision)

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a repository, as uploaded."""
        repository = self.repositories[repo_id]
        return repository.commits[repository.references[revision]]

    def fetched(self, repo_id: str) -> list[str]:
        """Names of the files of a repository whose content was asked for, in order."""
        pattern = re.compile(rf"/{re.escape(repo_id)}/resolve/[^/]+/(.+)|/large/\w+/{re.escape(repo_id)}/(.+)")
        matches = [pattern.fullmatch(request.path) for request in self.requests if request.method == "GET"]
        return [match[1] or match[2] for match in matches if match]


class _Handler(BaseHTTPRequestHandler):
    """One request. HTTP/1.0: a connection a request, so that none survives `stop`."""

    hub: HubServer

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing on stderr."""

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def do_POST(self) -> None:
        self._route()

    def do_PUT(self) -> None:
        self._route()

    def _route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(Request(self.command, path))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.hub.failing is not None:
            self._answer(self.hub.failing, error="the look-alike was told to fail")
            return
        repo = r"(?P<repo>[\w.-]+/[\w.-]+)"
        routes: list[tuple[str, str, Callable[..., None]]] = [
            ("GET|HEAD", rf"/{repo}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", self._resolve),
            ("GET|HEAD", rf"/large/(?P<oid>[0-9a-f]{{64}})/{repo}/(?P<file>.+)", self._large),
            ("GET", rf"/api/models/{repo}(?:/revision/(?P<revision>[^/]+))?", self._info),
            ("POST", r"/api/repos/create", self._create),
            ("POST", r"/api/validate-yaml", lambda _: self._answer(200, {"errors": [], "warnings": []})),
            ("POST", rf"/api/models/{repo}/preupload/(?P<revision>[^/]+)", self._preupload),
            ("POST", rf"/{repo}\.git/info/lfs/objects/batch", self._batch),
            ("PUT", r"/large/(?P<oid>[0-9a-f]{64})", self._put),
            ("POST", rf"/api/models/{repo}/commit/(?P<revision>[^/]+)", self._commit),
        ]
        for methods, pattern, handle in routes:
            match = re.fullmatch(pattern, path)
            if match and self.command in methods.split("|"):
                handle(body, **match.groupdict())
                return
        self._answer(404, error=f"no such address: {self.command} {path}")

    def _resolve(self, _: bytes, repo: str, revision: str, file: str) -> None:
        found = self._readable(repo, revision)
        if found is None:
            return
        repository, sha = found
        headers = {"X-Repo-Commit": sha}
        data = repository.commits[sha].get(file)
        if data is None:
            self._answer(404, error="Entry not found", code="EntryNotFound", headers=headers)
        elif file.endswith(LARGE):
            oid = hashlib.sha256(data).hexdigest()
            self.hub.large_files[oid] = data
            headers |= {"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{oid}"'}
            # On another host, as the Hub's are: the client reads the headers of this answer, not of the redirect's.
            headers["Location"] = f"{self.hub.url.replace('127.0.0.1', 'localhost')}/large/{oid}/{repo}/{file}"
            self._answer(302, headers=headers)
        else:
            headers["ETag"] = f'"{hashlib.sha1(data).hexdigest()}"'
            self._answer(200, data, headers=headers)

    def _large(self, _: bytes, oid: str, repo: str, file: str) -> None:
        self._answer(200, self.hub.large_files[oid], headers={"ETag": f'"{oid}"'})

    def _info(self, _: bytes, repo: str, revision: str | None) -> None:
        found = self._readable(repo, revision or "main", files=False)
        if found is not None:
            repository, sha = found
            siblings = [{"rfilename": name} for name in sorted(repository.commits[sha])]
            self._answer(200, {"id": repo, "modelId": repo, "sha": sha, "siblings": siblings, "tags": []})

    def _create(self, body: bytes) -> None:
        values = json.loads(body)
        repo = f"{values.get('organization') or 'me'}/{values['name']}"
        if not self._may_write():
            return
        if repo in self.hub.repositories:
            self._answer(409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{repo}"})
            return
        private = values.get("visibility") == "private" or bool(values.get("private"))
        repository = self.hub.repositories[repo] = Repository(private=private)
        repository.commit({}, "main")
        self._answer(200, {"url": f"{self.hub.url}/{repo}", "name": repo})

    def _preupload(self, body: bytes, repo: str, revision: str) -> None:
        if not self._may_write():
            return
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        self._answer(200, {"files": files})

    def _batch(self, body: bytes, repo: str) -> None:
        if not self._may_write():
            return
        objects = [
            {
                **{key: wanted[key] for key in ("oid", "size")},
                "actions": {"upload": {"href": f"{self.hub.url}/large/{wanted['oid']}"}},
            }
            for wanted in json.loads(body)["objects"]
        ]
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _put(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            self._answer(400, error="the content is not that of the address")
            return
        self.hub.large_files[oid] = body
        self._answer(200)

    def _commit(self, body: bytes, repo: str, revision: str) -> None:
        if not self._may_write():
            return
        repository = self.hub.repositories[repo]
        files = dict(repository.commits[repository.references[revision]])
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.large_files[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        sha = repository.commit(files, revision)
        self._answer(200, {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{repo}/commit/{sha}"})

    def _readable(self, repo: str, revision: str, *, files: bool = True) -> tuple[Repository, str] | None:
        """A repository and the commit asked for; None if the request was answered with an error."""
        repository = self.hub.repositories.get(repo)
        if repository is None or (repository.private and not self._has_token()):
            # Without a token 401, so that nobody learns which private repositories exist. The Hub's 401 has no code:
            # its client knows it by the https:// address, which this server has not.
            status = 404 if self._has_token() else 401
            self._answer(status, error="Repository not found", code="RepoNotFound")
            return None
        if repository.gated and files and not self._has_token():  # what is in it, everybody may know
            self._answer(401, error=f"Access to model {repo} is restricted.", code="GatedRepo")
            return None
        sha = repository.find(revision)
        if sha is None:
            self._answer(404, error=f"Invalid rev id: {revision}", code="RevisionNotFound")
            return None
        return repository, sha

    def _has_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _may_write(self) -> bool:
        """Whether the token may write; if not, the request was answered."""
        if not self._has_token():
            self._answer(401, error="Invalid username or password.")
        return self._has_token()

    def _answer(
        self,
        status: int,
        content: bytes | dict[str, Any] = b"",
        *,
        error: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        if error is not None:
            content = {"error": error}
            headers = {**(headers or {}), "X-Error-Message": error} | ({"X-Error-Code": code} if code else {})
        data = json.dumps(content).encode() if isinstance(content, dict) else content
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json" if isinstance(content, dict) else "text/plain")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
