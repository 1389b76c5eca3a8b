"""The hub's HTTP interface, as far as its client needs it to list and fetch, and ModelScope's."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field

from tests.helpers.hostile_http import HostileServer, Request

Answer = tuple[int, dict[str, str], bytes]


@dataclass
class FakeHub:
    """Repositories by ``datasets/owner/name`` or ``models/owner/name``; files by path."""

    server: HostileServer
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commits: dict[str, str] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    token: str = ""
    """Asked for by gated repositories, and refused everywhere where it is another one."""

    def add(self, repo: str, files: dict[str, bytes], commit: str = "a" * 40) -> None:
        """Add a repository, or another version of it."""
        self.repos[repo], self.commits[repo] = files, commit
        self.server.pages = {"^/api/": self._api, "^/(datasets/)?[^/]+/[^/]+/resolve/": self._file}
        for path, data in files.items():
            self.server.files[f"/{repo.removeprefix('models/')}/cdn/{commit}/{path}"] = data

    def _allowed(self, repo: str, request: Request) -> Answer | None:
        given = request.headers.get("authorization", request.headers.get("Authorization", ""))
        if given and given != f"Bearer {self.token}":
            return _error(401, "", "Invalid credentials")
        if repo not in self.repos:
            return _error(404, "RepoNotFound", "Repository not found")
        if repo in self.gated and not given:
            return _error(401, "GatedRepo", "Access to it is restricted")
        return None

    def _api(self, request: Request) -> Answer:
        found = re.match(
            r"/api/(datasets|models)/([^/]+/[^/?]+)(?:/revision/([^/?]+))?(/auth-check)?",
            request.path,
        )
        assert found, request.path
        repo = f"{found[1]}/{found[2]}"
        if refused := self._allowed(repo, request):
            return refused
        commit = self.commits[repo]
        if found[3] not in (None, "main", commit):
            return _error(404, "RevisionNotFound", "Revision not found")
        siblings = [
            {
                "rfilename": path,
                "size": len(data),
                "blobId": "0" * 40,
                **(
                    {
                        "lfs": {
                            "size": len(data),
                            "sha256": hashlib.sha256(data).hexdigest(),
                            "pointerSize": 130,
                        }
                    }
                    if len(data) > 100
                    else {}
                ),
            }
            for path, data in self.repos[repo].items()
        ]
        info = {
            "id": found[2],
            "_id": "1",
            "sha": commit,
            "siblings": siblings,
            "private": False,
            "gated": "auto" if repo in self.gated else False,
            "tags": [],
        }
        return 200, {"Content-Type": "application/json"}, json.dumps(info).encode()

    def _file(self, request: Request) -> Answer:
        """Redirect to where the bytes are, on another host, as the hub does."""
        found = re.match(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", request.path)
        assert found, request.path
        repo = f"{found[1] or 'models/'}{found[2]}"
        if refused := self._allowed(repo, request):
            return refused
        other = self.server.url.replace("127.0.0.1", "localhost")
        place = f"{other}/{found[1] or ''}{found[2]}/cdn/{found[3]}/{found[4]}"
        return 302, {"Location": place}, b""


def _error(status: int, code: str, message: str) -> Answer:
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    return status, headers, json.dumps({"error": message}).encode()


def serve_modelscope(server: HostileServer, repo: str, files: dict[str, bytes]) -> None:
    """Serve a ModelScope model."""

    def page(request: Request) -> Answer:
        if "/repo/files" in request.path:
            listed = [
                {
                    "Path": path,
                    "Name": path,
                    "Type": "blob",
                    "Size": len(data),
                    "Sha256": hashlib.sha256(data).hexdigest(),
                }
                for path, data in files.items()
            ]
            answer = {"Code": 200, "Data": {"Files": [{"Path": "d", "Type": "tree"}, *listed]}}
            return 200, {}, json.dumps(answer).encode()
        name = re.search(r"FilePath=([^&]+)", request.path)
        assert name
        return 200, {}, files[name[1].replace("%2F", "/")]

    server.pages[f"^/api/v1/models/{repo}/"] = page
