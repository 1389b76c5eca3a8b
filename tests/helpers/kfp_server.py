"""Stands in for the API server of Kubeflow Pipelines, which needs a database and Argo: keeps what
it is sent.

It speaks the part of v2beta1 that kfp's own client uses to find, upload and start pipelines.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml


@dataclass
class FakeKfp:
    """What the server holds; ``refusal`` is a status and message for every request."""

    endpoint: str = ""
    versions: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Pipeline to its versions, oldest first, each with the file that was uploaded."""
    descriptions: list[str] = field(default_factory=list)
    """Of pipelines and versions, in the order they came."""
    runs: list[dict[str, Any]] = field(default_factory=list)
    states: dict[str, str] = field(default_factory=dict)
    """What a run that was started is said to be; PENDING unless it stands here."""
    terminated: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    refusal: tuple[int, str] | None = None

    def answer(self, method: str, path: str, query: dict[str, str], body: bytes) -> tuple[int, Any]:
        """Return status and JSON for a request."""
        if self.refusal:
            return self.refusal[0], {"error_message": self.refusal[1]}
        if path.endswith("/pipelines") and method == "POST":
            made = json.loads(body)
            self.versions[made["display_name"]] = {}
            self.descriptions.append(made["description"])
            return 200, {"pipeline_id": made["display_name"], "display_name": made["display_name"]}
        if path.endswith("/pipelines/upload_version"):
            self.descriptions.append(query["description"])
            self.versions[query["pipelineid"]][query["name"]] = _file(body)
            return 200, {"pipeline_version_id": query["name"]}
        if found := re.search(r"/pipelines/([^/]+)/versions$", path):
            names = list(self.versions[found[1]])
            assert query["sort_by"] == "created_at desc"
            return 200, {
                "pipeline_versions": [
                    {"pipeline_version_id": f"id of {name}", "display_name": name}
                    for name in reversed(names)
                ]
            }
        if found := re.search(r"/pipelines/([^/]+)/versions/(.+)$", path):
            parts = list(
                yaml.safe_load_all(
                    self.versions[found[1]][unquote(found[2]).removeprefix("id of ")]
                )
            )
            spec = (
                {"pipeline_spec": parts[0], "platform_spec": parts[1]}
                if len(parts) > 1
                else parts[0]
            )
            return 200, {"pipeline_id": found[1], "pipeline_spec": spec}
        if path.endswith("/pipelines"):
            [wanted] = json.loads(query["filter"])["predicates"]
            names = [name for name in self.versions if name == wanted["stringValue"]]
            return 200, {
                "pipelines": [{"pipeline_id": name, "display_name": name} for name in names]
            }
        if path.endswith("/experiments"):
            return 200, (
                {"experiment_id": "e1", "display_name": json.loads(body)["display_name"]}
                if method == "POST"
                else {"experiments": []}
            )
        if found := re.search(r"/runs/([^/]+):terminate$", path):
            self.terminated.append(found[1])
            return 200, {}
        if found := re.search(r"/runs/([^/]+)$", path):
            return 200, {"run_id": found[1], "state": self.states.get(found[1], "PENDING")}
        assert path.endswith("/runs"), path
        self.runs.append(json.loads(body))
        return 200, {"run_id": f"run-{len(self.runs)}"}


@contextmanager
def fake_kfp(host: str = "127.0.0.1") -> Iterator[FakeKfp]:
    """A server that listens at an address of this machine until the block ends."""
    state = FakeKfp()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            state.tokens.append(self.headers.get("authorization", ""))
            status, said = state.answer(
                self.command, url.path, {k: v[0] for k, v in parse_qs(url.query).items()}, body
            )
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(said).encode())

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer((host, 0), Handler)
    state.endpoint = f"http://{host}:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


def _file(body: bytes) -> bytes:
    """Return the one file of a multipart form."""
    boundary, _, rest = body.partition(b"\r\n")
    return rest.partition(b"\r\n\r\n")[2].partition(b"\r\n" + boundary)[0]
