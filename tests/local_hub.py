"""A Hub on this machine, which the real client downloads from and pushes to: as much of its interface as that uses."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import huggingface_hub.constants

CHUNK = 4_000_000  # bytes
WRITES = "hf_writes"  # the token that may write


class LocalHub(ThreadingHTTPServer):
    """repos, datasets: "owner/name" -> its folder. gated: repos whose files need terms to be accepted first."""

    daemon_threads = True

    def __init__(self, repos: dict[str, Path], gated: tuple[str, ...] = (), datasets: dict[str, Path] | None = None):
        super().__init__(("127.0.0.1", 0), _Answer)
        self.repos, self.gated, self.datasets = repos, gated, datasets or {}
        self.created: list[dict] = []
        self.pushed: dict[str, bytes] = {}  # path -> content, of every commit
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def use(self, monkeypatch, cache: Path) -> None:
        """Make it the Hub of this process's client, with an empty cache."""
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "ENDPOINT", self.url)
        template = self.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LocalHub

    def do_GET(self):  # noqa: N802 - named by the standard library
        path = unquote(self.path.partition("?")[0]).strip("/")
        api, path = path.startswith("api/"), path.removeprefix("api/")
        repos = self.server.datasets if path.startswith("datasets/") else self.server.repos
        owner, name, *rest = (*path.removeprefix("datasets/").removeprefix("models/").split("/"), "", "")
        repo = f"{owner}/{name}"
        if repo not in repos:
            return self.fail(401, "RepoNotFound")
        folder = repos[repo]
        files = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        commit = hashlib.sha1(repo.encode()).hexdigest()
        if api and rest[0] == "revision":
            if rest[1] not in ("main", "v1", commit):
                return self.fail(404, "RevisionNotFound")
            return self.give(json.dumps({"id": repo, "sha": commit, "siblings": []}).encode())
        if api:
            tree = [
                {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for path, content in files.items()
            ]
            return self.give(json.dumps(tree).encode())
        if repo in self.server.gated:
            return self.fail(403, "GatedRepo")
        content = files["/".join(rest[2:]).strip("/")]
        return self.give(content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit})

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self):  # noqa: N802
        """Making a repository, and commits whose files come inside the request."""
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        sent = [json.loads(line) for line in body.splitlines()]
        if self.headers["Authorization"] != f"Bearer {WRITES}":
            return self.fail(403 if self.headers["Authorization"] else 401, "")
        if self.path == "/api/repos/create":
            repo = f"{sent[0].get('organization') or 'me'}/{sent[0]['name']}"
            known = self.server.datasets if sent[0].get("type") == "dataset" else self.server.repos
            self.server.created.append(sent[0])
            self.give(json.dumps({"url": f"{self.server.url}/{repo}"}).encode(), status=409 if repo in known else 200)
        elif self.path == "/api/validate-yaml":
            self.give(b"{}")
        elif "/preupload/" in self.path:
            mode = {"uploadMode": "regular", "shouldIgnore": False}
            files = [{"path": file["path"]} | mode for file in sent[0]["files"]]
            self.give(json.dumps({"files": files}).encode())
        else:
            files = [line["value"] for line in sent if line["key"] == "file"]
            self.server.pushed |= {file["path"]: base64.b64decode(file["content"]) for file in files}
            repo = "/".join(self.path.split("/")[3:5])  # of /api/models/owner/name/commit/main
            done = {"commitUrl": f"{self.server.url}/{repo}/commit/{'0' * 40}", "commitOid": "0" * 40}
            self.give(json.dumps(done).encode())

    def fail(self, status: int, code: str) -> None:
        self.give(b"{}", {"X-Error-Code": code}, status)

    def give(self, content: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            for start in range(0, len(content), CHUNK):
                self.wfile.write(content[start : start + CHUNK])

    def log_message(self, *arguments):
        """Tests are silent."""
