from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import pytest

from lmkit.data import InMemory, TokenStore, prepare
from lmkit.text import Byte


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LMKIT_CACHE", str(folder))
    return folder


@pytest.fixture
def store_of() -> Callable[..., TokenStore]:
    """All of a list of texts or prompts as a store of bytes."""

    def make(documents: list, max_len: int = 32, **options: object) -> TokenStore:
        source = InMemory(documents)
        return prepare(source, Byte(), "all", max_len=max_len, progress=False, **options)

    return make


@dataclass
class Answer:
    """What the server does once instead of sending a file."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None  # send so many bytes, then hang up
    body: bytes | None = None
    before: Callable[[], object] = bool  # called first


class Asked(NamedTuple):
    """A request that the server got; names of headers in lower case."""

    path: str
    headers: dict[str, str]


class _Quiet(ThreadingHTTPServer):
    """Says nothing of clients that hang up."""

    def handle_error(self, *_: object) -> None:
        pass


class Web:
    """A web server of this machine.

    Attributes:
        files: path -> content.
        answers: path -> what comes first, one after another.
        asked: the requests so far.
        ranges: it can send a part of a file.
        versions: it tells each file's ETag.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.answers: dict[str, list[Answer]] = defaultdict(list)
        self.asked: list[Asked] = []
        self.ranges = self.versions = True
        self.server = _Quiet(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def paths(self) -> list[str]:
        """What was asked for."""
        return [asked.path for asked in self.asked]

    def hub(self, repo: str, files: dict[str, bytes], commit: str = "c0ffee") -> None:
        """Serve a data set as the hub does: large files are told of, and lie on another host."""
        siblings = []
        for name, content in files.items():
            sha256 = hashlib.sha256(content).hexdigest()
            about = {"sha256": sha256, "size": len(content), "pointerSize": 130}
            small = {"rfilename": name, "size": len(content), "blobId": "0" * 40}
            siblings.append(small if name.endswith(".json") else {**small, "lfs": about})
            self.files[f"/cdn/{sha256}"] = content
            self.files[f"/datasets/{repo}/resolve/{commit}/{name}"] = f"/cdn/{sha256}".encode()
        listing = {"id": repo, "sha": commit, "siblings": siblings}
        self.files[f"/api/datasets/{repo}/revision/main"] = json.dumps(listing).encode()

    def _handler(web) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = unquote(urlsplit(self.path).path)
                headers = {name.lower(): value for name, value in self.headers.items()}
                web.asked.append(Asked(path, headers))
                waiting = web.answers[path]
                answer = waiting.pop(0) if waiting else Answer()
                answer.before()
                content = web.files.get(path, answer.body)
                if content is None and answer.status == 200:
                    answer.status = 404
                if "/resolve/" in path and answer.status == 200:
                    answer = Answer(302, {"Location": (content or b"").decode()})
                self._answer(answer, content if answer.body is None else answer.body, headers)

            def _answer(self, answer: Answer, content: bytes | None, asked: dict) -> None:
                content = content if content and answer.status == 200 else b""
                version = f'"{hashlib.md5(content).hexdigest()}"'
                part = re.fullmatch(r"bytes=(\d+)-", asked.get("range", ""))
                start = int(part[1]) if part and web.ranges and answer.status == 200 else 0
                start = start if asked.get("if-range", version) == version else 0
                if start and start >= len(content):
                    answer, content = Answer(416), b""
                status = 206 if start and content else answer.status
                self.send_response(status)
                if status == 206:
                    end = f"{len(content) - 1}/{len(content)}"
                    self.send_header("Content-Range", f"bytes {start}-{end}")
                if status in (200, 206) and web.versions:
                    self.send_header("ETag", version)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                if "Content-Length" not in answer.headers:
                    self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                stop = len(content) if answer.cut is None else start + answer.cut
                self.wfile.write(content[start:stop])

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A server, asked without a proxy; it is the hub too."""
    server = Web()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.close()
