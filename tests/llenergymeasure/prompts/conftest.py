"""A hub on loopback: the few answers that `huggingface_hub` and `datasets` ask for, over one data set's files."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

REVISION = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves data sets (name → path → bytes), each at one revision."""

    def __init__(self, data: dict[str, dict[str, bytes]]) -> None:
        self.data = data

    def answer(self, path: str, body: str) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, content) of a request."""
        name = next((name for name in self.data if f"/datasets/{name}" in path), None)
        if name is None:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        files, api = self.data[name], f"/api/datasets/{name}"
        if path in (api, f"{api}/revision/{REVISION}", f"{api}/revision/main"):
            siblings = [{"rfilename": each} for each in files]
            return 200, {}, json.dumps({"id": name, "sha": REVISION, "siblings": siblings, "tags": []}).encode()
        if path.startswith(f"{api}/tree/{REVISION}"):
            folder = path.removeprefix(f"{api}/tree/{REVISION}").strip("/")
            found = [_entry(each, files) for each in files if each.startswith(f"{folder}/" if folder else "")]
            return 200, {}, json.dumps(found).encode()
        if path == f"{api}/paths-info/{REVISION}":
            return 200, {}, json.dumps([_entry(each, files) for each in files if each in unquote(body)]).encode()
        file = path.replace("/resolve/main/", f"/resolve/{REVISION}/")
        file = file.removeprefix(f"/datasets/{name}/resolve/{REVISION}/")
        if file in files:
            return 200, {"ETag": f'"{_entry(file, files)["oid"]}"', "X-Repo-Commit": REVISION}, files[file]
        return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": REVISION}, b"{}"


def _entry(name: str, files: dict[str, bytes]) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(files[name]), "oid": hashlib.sha1(files[name]).hexdigest()}


@contextmanager
def _serving(hub: Hub) -> Iterator[str]:
    """The endpoint's URL while the hub answers; nothing listens there afterwards."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            path = unquote(urlsplit(self.path).path)
            status, headers, content = hub.answer(path, body)
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = respond

        def log_message(self, format: str, *arguments: object) -> None:
            """Not on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def serving() -> Callable[[dict[str, dict[str, bytes]]], AbstractContextManager[str]]:
    """`with serving(data) as endpoint:`, the hub's address while it answers; its revision is `REVISION`."""
    return lambda data: _serving(Hub(data))
