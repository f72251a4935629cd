from __future__ import annotations

import base64
import hashlib
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from lmkit.data.fetch import fetch, shown
from lmkit.data.patience import Patience
from lmkit.errors import DataError, StorageError

CONTENT = bytes(range(256)) * 40
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Waits(list):
    """The waits that were asked for; nobody waits."""

    def patience(self, **changes: Any) -> Patience:
        return replace(Patience(pause=self.append), **changes)


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def get(web: Any, waits: Waits, tmp_path: Path) -> Callable[..., Path]:
    """Fetch `/file` of the server to `here/file`."""
    web.files["/file"] = CONTENT

    def run(path: str = "/file", **options: Any) -> Path:
        options = {"patience": waits.patience(), "progress": False} | options
        return fetch(web.url + path, tmp_path / "here" / "file", **options)

    return run


@pytest.fixture
def answer(web: Any) -> Callable[..., None]:
    """What the server says first."""
    kind = type(web).__init__.__globals__["Answer"]

    def add(*_: Any, path: str = "/file", **about: Any) -> None:
        web.answers[path].append(kind(**about))

    return add


def names(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "here").iterdir())


class TestWhole:
    def test_a_file_is_fetched_once(self, web: Any, get: Any, tmp_path: Path) -> None:
        assert get().read_bytes() == CONTENT
        assert get(sha256=DIGEST, size=len(CONTENT)) == tmp_path / "here" / "file"
        assert web.paths() == ["/file"]
        assert names(tmp_path) == ["file", "file.lock"]

    def test_an_empty_file_is_a_file_too(self, web: Any, get: Any) -> None:
        web.files["/file"] = b""
        assert get(size=0).read_bytes() == b""

    def test_a_redirect_is_followed_without_the_secret(
        self, web: Any, get: Any, answer: Any
    ) -> None:
        answer(path="/old", status=302, headers={"Location": "/file"})
        assert get("/old", headers={"Authorization": "Bearer hf_x"}).read_bytes() == CONTENT
        assert [asked.headers.get("authorization") for asked in web.asked] == ["Bearer hf_x", None]

    def test_a_bar_shows_what_comes(
        self, get: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("lmkit.data.bar.DELAY", 0.0)
        get(progress=True)
        out, err = capsys.readouterr()
        assert not out
        assert "file: 100%" in err
        assert "10.2k" in err

    def test_a_name_and_a_password_in_the_address_are_sent(
        self, web: Any, waits: Waits, tmp_path: Path
    ) -> None:
        web.files["/a file"] = CONTENT
        url = web.url.replace("//", "//me:p%40ss@") + "/a file"
        fetch(url, tmp_path / "x", patience=waits.patience())
        sent = web.asked[0].headers["authorization"].removeprefix("Basic ")
        assert base64.b64decode(sent) == b"me:p@ss"

    def test_a_proxy_of_the_environment_is_asked(
        self, web: Any, waits: Waits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("http_proxy", web.url)
        monkeypatch.setenv("no_proxy", "")
        web.files["/file"] = CONTENT
        fetch("http://far.example/file", tmp_path / "x", patience=waits.patience())
        assert web.asked[0].headers["host"] == "far.example"


class TestAnother:
    def test_another_file_than_the_published_one_is_refused(
        self, web: Any, get: Any, tmp_path: Path
    ) -> None:
        with pytest.raises(DataError, match="sha256 .*, the published one 0000.*; it was changed"):
            get(sha256="0" * 64)
        assert names(tmp_path) == ["file.lock"]
        assert web.paths() == ["/file"]

    def test_another_size_is_refused_before_a_byte_is_read(self, get: Any, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="has 10,240 bytes, the published one 7"):
            get(size=7)
        assert names(tmp_path) == ["file.lock"]

    @pytest.mark.parametrize("about", [{"sha256": DIGEST}, {"size": len(CONTENT)}])
    def test_so_is_one_that_was_put_there_by_hand(
        self, get: Any, tmp_path: Path, about: dict
    ) -> None:
        (tmp_path / "here").mkdir()
        (tmp_path / "here" / "file").write_bytes(b"a page that asks to log in")
        with pytest.raises(DataError, match="here/file: has .*, the published file .*; delete it"):
            get(**about)


class TestBroken:
    @pytest.mark.parametrize("about", [{"sha256": DIGEST}, {"size": len(CONTENT)}, {}])
    def test_a_broken_transfer_goes_on_where_it_broke(
        self, web: Any, get: Any, answer: Any, waits: Waits, about: dict
    ) -> None:
        answer(cut=1000)
        answer(cut=3000)
        assert get(**about).read_bytes() == CONTENT
        assert [asked.headers.get("range") for asked in web.asked] == [
            None, "bytes=1000-", "bytes=4000-",
        ]  # fmt: skip
        assert waits == [1.0, 1.0]  # each brought something: the count begins anew

    def test_at_the_next_start_too(
        self, web: Any, get: Any, answer: Any, waits: Waits, tmp_path: Path
    ) -> None:
        answer(cut=1000)
        with pytest.raises(DataError, match="ended after 1,000 of 10,240 bytes, the last of 1 try"):
            get(patience=waits.patience(waits=()))
        assert names(tmp_path) == ["file.lock", "file.partial", "file.partial.version"]
        assert get().read_bytes() == CONTENT
        assert web.asked[1].headers["range"] == "bytes=1000-"
        assert names(tmp_path) == ["file", "file.lock"]

    def test_a_file_that_changed_meanwhile_begins_anew(
        self, web: Any, get: Any, answer: Any, waits: Waits
    ) -> None:
        answer(cut=1000)
        with pytest.raises(DataError):
            get(patience=waits.patience(waits=()))
        web.files["/file"] = CONTENT[::-1]
        assert get().read_bytes() == CONTENT[::-1]
        assert web.asked[1].headers["range"] == "bytes=1000-"

    def test_what_has_no_version_and_no_hash_begins_anew(
        self, web: Any, get: Any, answer: Any, waits: Waits
    ) -> None:
        web.versions = False
        answer(cut=1000)
        assert get().read_bytes() == CONTENT
        assert "range" not in web.asked[1].headers

    def test_two_parts_of_different_files_are_found_out(
        self, web: Any, get: Any, answer: Any, tmp_path: Path
    ) -> None:
        web.versions = False
        (tmp_path / "here").mkdir()
        (tmp_path / "here" / "file.partial").write_bytes(b"another")
        assert get(sha256=DIGEST).read_bytes() == CONTENT
        assert [asked.headers.get("range") for asked in web.asked] == ["bytes=7-", None]

    def test_a_server_without_ranges_sends_the_whole_again(
        self, web: Any, get: Any, answer: Any
    ) -> None:
        web.ranges = False
        answer(cut=1000)
        assert get(sha256=DIGEST).read_bytes() == CONTENT
        assert len(web.asked) == 2

    @pytest.mark.parametrize("versions", [True, False])
    def test_one_that_never_gets_further_is_given_up(
        self, web: Any, get: Any, answer: Any, waits: Waits, versions: bool
    ) -> None:
        web.ranges, web.versions = False, versions
        for _ in range(6):
            answer(cut=1000)
        with pytest.raises(DataError, match="the last of 5 tries; download it by hand"):
            get()
        assert waits == [1.0, 2.0, 4.0, 8.0]

    def test_more_than_the_server_has(self, web: Any, get: Any, tmp_path: Path) -> None:
        (tmp_path / "here").mkdir()
        (tmp_path / "here" / "file.partial").write_bytes(CONTENT + b"more")
        assert get(sha256=DIGEST).read_bytes() == CONTENT
        assert [asked.headers.get("range") for asked in web.asked] == ["bytes=10244-", None]

    def test_a_silent_server(self, get: Any, answer: Any, waits: Waits) -> None:
        answer(before=lambda: time.sleep(0.5))
        assert get(patience=waits.patience(silence=0.1)).read_bytes() == CONTENT
        assert waits == [1.0]


class TestRefused:
    def test_not_found_is_not_asked_twice(self, web: Any, get: Any) -> None:
        with pytest.raises(DataError) as caught:
            get("/none?token=secret")
        assert str(caught.value) == (
            f"{web.url}/none?...: the server says 404 Not Found; look whether the name is right"
        )
        assert len(web.asked) == 1

    def test_a_busy_server_says_how_long_to_wait(
        self, get: Any, answer: Any, waits: Waits, caplog: pytest.LogCaptureFixture
    ) -> None:
        date = datetime.now(timezone.utc) + timedelta(seconds=60)
        answer(status=429, headers={"Retry-After": "17"})
        answer(status=503, headers={"Retry-After": format_datetime(date, usegmt=True)})
        answer(status=429, headers={"Retry-After": "0"})
        answer(status=429, headers={"Retry-After": "soon"})
        assert get().read_bytes() == CONTENT
        assert [round(wait, -1) for wait in waits] == [20, 60, 0, 10]
        assert "the server says 429 Too Many Requests; again in 17 s" in caplog.text

    def test_too_long_a_wait_is_told(self, get: Any, answer: Any, waits: Waits) -> None:
        answer(status=429, headers={"Retry-After": "3600"})
        with pytest.raises(DataError, match="Too Many Requests, and asks to wait 3,600 s"):
            get()
        assert not waits

    def test_an_error_of_the_server_may_pass(self, get: Any, answer: Any, waits: Waits) -> None:
        for _ in range(4):
            answer(status=500)
        assert get().read_bytes() == CONTENT
        assert waits == [1.0, 2.0, 4.0, 8.0]

    def test_or_may_not(self, web: Any, get: Any, answer: Any, tmp_path: Path) -> None:
        for _ in range(5):
            answer(status=502)
        with pytest.raises(DataError) as caught:
            get()
        assert str(caught.value) == (
            f"{web.url}/file: the server says 502 Bad Gateway, the last of 5 tries; "
            f"download it by hand: {web.url}/file -> {tmp_path}/here/file"
        )

    def test_nobody_listens(self, waits: Waits, tmp_path: Path, web: Any) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        url = f"http://me:secret@127.0.0.1:{port}/file?token=secret"
        with pytest.raises(DataError, match="Connection refused, the last of 5 tries") as caught:
            fetch(url, tmp_path / "x", patience=waits.patience())
        assert "secret" not in str(caught.value)
        assert "me" not in str(caught.value).replace("time", "").split("->")[0]

    def test_offline_it_says_what_to_put_where(
        self, web: Any, get: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(DataError) as caught:
            get("/file?token=secret")
        assert str(caught.value) == (
            f"{web.url}/file?...: not on this disk, and HF_HUB_OFFLINE is set; "
            f"download it by hand: {web.url}/file?... -> {tmp_path}/here/file"
        )
        assert not web.asked
        (tmp_path / "here").mkdir()
        (tmp_path / "here" / "file").write_bytes(CONTENT)
        assert get(sha256=DIGEST).read_bytes() == CONTENT

    @pytest.mark.parametrize(
        "url",
        ["file:///etc/passwd", "me:secret@host/x", "https://", "http://me:secret@host:x/?a=secret"],
    )
    def test_what_is_no_address(self, url: str, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="not the address of a file") as caught:
            fetch(url, tmp_path / "x")
        assert "secret" not in str(caught.value)

    def test_a_full_disk_is_no_fault_of_the_network(
        self, get: Any, waits: Waits, tmp_path: Path
    ) -> None:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
            with pytest.raises(StorageError, match="cannot write the cache: File too large"):
                get()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, previous)
        assert not waits


def test_of_two_processes_one_downloads_and_the_other_waits(
    web: Any, answer: Any, tmp_path: Path
) -> None:
    web.files["/file"] = CONTENT
    answer(before=lambda: time.sleep(0.2))
    program = "import sys; from lmkit.data.fetch import fetch; fetch(sys.argv[1], sys.argv[2])"
    command = [sys.executable, "-c", program, f"{web.url}/file", str(tmp_path / "here" / "file")]
    both = [subprocess.Popen(command, env={**os.environ}) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert web.paths() == ["/file"]
    assert (tmp_path / "here" / "file").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://host/a/b", "https://host/a/b"),
        ("https://me:p@ss@host:1/a?t=x#y", "https://host:1/a?..."),
        ("me:secret@host/a", "host/a"),
    ],
)
def test_secrets_are_not_shown(url: str, told: str) -> None:
    assert shown(url) == told
