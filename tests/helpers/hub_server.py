"""A stand-in of the hub's HTTP API for dataset repositories, as far as uploads and downloads of folders need it."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789" * 4


@dataclass
class HubServer:
    """Its address and its repositories."""

    address: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Name -> file -> content."""
    created_private: dict[str, bool] = field(default_factory=dict)
    token: str = "hf_of_the_stand_in"
    """Writing needs it."""


@contextmanager
def running_hub() -> Iterator[HubServer]:
    """Start the server on a free port of this machine."""
    hub = HubServer()

    class Handler(_Handler):
        server_hub = hub

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_hub: HubServer

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._get(with_body=False)

    def do_GET(self) -> None:
        self._get(with_body=True)

    def _get(self, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        if found := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            files = self.server_hub.repositories.get(found[1], {})
            if found[2] not in files:
                return self._answer(404, b"", {"X-Error-Code": "EntryNotFound"}, with_body)
            content = files[found[2]]
            named = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
            return self._answer(200, content, named, with_body)
        found = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(/tree/.*|/revision/.*)?", path)
        if not found or found[1] not in self.server_hub.repositories:
            return self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"}, with_body)
        files = self.server_hub.repositories[found[1]]
        if (found[2] or "").startswith("/tree"):
            values: Any = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in files.items()
            ]
        else:
            values = {
                "id": found[1],
                "sha": COMMIT,
                "private": True,
                "siblings": [{"rfilename": name} for name in files],
                "tags": [],
                "downloads": 0,
                "likes": 0,
            }
        return self._json(values, with_body)

    def do_POST(self) -> None:
        body = self._body()
        if self.headers.get("Authorization") != f"Bearer {self.server_hub.token}":
            return self._answer(401, json.dumps({"error": "Invalid username or password."}).encode(), {})
        if self.path == "/api/repos/create":
            values = json.loads(body)
            name = f"{values['organization']}/{values['name']}"
            self.server_hub.repositories.setdefault(name, {})
            self.server_hub.created_private.setdefault(
                name, values.get("private") or values.get("visibility") == "private"
            )
            return self._json({"url": f"{self.server_hub.address}/datasets/{name}", "name": name})
        if found := re.fullmatch(r"/api/datasets/(.+)/preupload/main", self.path):
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self._json({"files": files})
        if found := re.fullmatch(r"/api/datasets/(.+)/commit/main", self.path):
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    self.server_hub.repositories[found[1]][entry["value"]["path"]] = content
            url = f"{self.server_hub.address}/datasets/{found[1]}/commit/{COMMIT}"
            return self._json({"success": True, "commitOid": COMMIT, "commitUrl": url, "hookOutput": ""})
        if self.path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        return self._answer(404, b"{}", {})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().strip() or b"0", 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _json(self, values: Any, with_body: bool = True) -> None:
        self._answer(200, json.dumps(values).encode(), {"Content-Type": "application/json"}, with_body)

    def _answer(self, status: int, content: bytes, headers: dict[str, str], with_body: bool = True) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(content)
