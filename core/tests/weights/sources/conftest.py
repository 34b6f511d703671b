"""A small Hugging Face hub on loopback, and a way to run the hub source against it.

huggingface_hub reads its environment when it is imported: where a test is about the environment, the
question is asked in a process of its own; elsewhere the library's constants are set.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from quire.contracts import ModelFiles, ModelRequest
from quire.weights.sources.hub import HubSource

MAIN = "a" * 40
BRANCH = "b" * 40

ASK = """
import json, sys
from quire.contracts import ModelRequest
from quire.weights.sources.hub import HubSource
files = HubSource().resolve(ModelRequest(**json.loads(sys.argv[1])))
print(json.dumps([str(files.directory), [path.name for path in files.weights]]))
"""


@dataclass
class Hub:
    """What the hub serves, and what it was asked.

    Attributes:
        files: repository id -> commit -> file name -> content.
        refs: branch or tag -> commit, of every repository.
        failure: status and X-Error-Code of every answer, if set.
        asked: method, path and Authorization header of each request.
        sent: bytes of the parts of files that were asked for by their range.
    """

    files: dict[str, dict[str, dict[str, bytes]]]
    refs: dict[str, str] = field(default_factory=lambda: {"main": MAIN, "side": BRANCH})
    failure: tuple[int, str] | None = None
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    sent: int = 0
    url: str = ""

    def fetched(self) -> set[str]:
        """Names of the files whose content was asked for."""
        return {
            path.rpartition("/")[2]
            for method, path, _ in self.asked
            if method == "GET" and "/resolve/" in path
        }


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, *args: Any) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        if not path.startswith("/api/agent"):  # the library's own business, asked or not as it likes
            self.hub.asked.append((self.command, path, self.headers.get("Authorization")))
        status, headers, data = self._find(path)
        asked_range = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        if asked_range and status == 200:
            first, last = int(asked_range[1]), min(int(asked_range[2]), len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            status, data = 206, data[first : last + 1]
            self.hub.sent += len(data)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def _find(self, path: str) -> tuple[int, dict[str, str], bytes]:
        if self.hub.failure is not None:
            return self.hub.failure[0], {"X-Error-Code": self.hub.failure[1]}, b""
        repo = next((name for name in self.hub.files if name in path), None)
        if repo is None:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        head, _, tail = f"{path}/".partition(f"/{repo}/")
        parts = tail.rstrip("/").split("/")
        kind, revision = (parts[0], parts[1]) if len(parts) > 1 else ("revision", "main")
        commit = self.hub.refs.get(revision, revision)
        files = self.hub.files[repo].get(commit)
        if files is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if head != "/api/models":
            data = files.get("/".join(parts[2:]))
            if data is None:
                return 404, {"X-Error-Code": "EntryNotFound"}, b""
            return 200, {"X-Repo-Commit": commit, "ETag": f'"{_digest(data)}"'}, data
        if kind == "tree":
            listing: Any = [
                {"type": "file", "path": name, "size": len(data), "oid": _digest(data)}
                for name, data in files.items()
            ]
        else:
            listing = {"id": repo, "sha": commit, "siblings": [{"rfilename": name} for name in files]}
        return 200, {"Content-Type": "application/json"}, json.dumps(listing).encode()


def _digest(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub with no repositories, on a port of its own."""
    hub = Hub({})
    handler = type("Handler", (_Handler,), {"hub": hub})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield hub
        server.shutdown()
        thread.join()


@pytest.fixture
def library(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """huggingface_hub's constants: an empty cache, no token, and our hub as the hub."""
    from huggingface_hub import close_session, constants

    for name in [name for name in os.environ if name.startswith("HF_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "hf" / "hub"),
        "HF_TOKEN_PATH": str(tmp_path / "hf" / "token"),
        "HF_HUB_OFFLINE": False,
    }.items():
        monkeypatch.setattr(constants, name, value)
    yield constants
    close_session()


@pytest.fixture
def resolve(library: Any) -> Callable[..., ModelFiles]:
    """Asks the hub source, without progress bars."""

    def run(model: str = "org/model", **request: Any) -> ModelFiles:
        files = HubSource().resolve(ModelRequest(model=model, show_progress=False, **request))
        assert files is not None
        return files

    return run


@pytest.fixture
def ask_process(hub: Hub, tmp_path: Path) -> Callable[..., tuple[Path, list[str]]]:
    """Asks the hub source in a fresh process with these environment variables: directory and weights."""

    def run(model: str, **env: str) -> tuple[Path, list[str]]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        done = subprocess.run(
            [sys.executable, "-c", ASK, json.dumps({"model": model})],
            env={**inherited, "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url, **env},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        directory, weights = json.loads(done.stdout)
        return Path(directory), weights

    return run
