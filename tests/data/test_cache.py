from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lmkit.data import InMemory, prepare
from lmkit.data import cache as cache_module
from lmkit.data.cache import cache_folder, file_digest, publish, publish_file
from lmkit.errors import DataError, StorageError
from lmkit.text import Byte

# prepares 40 texts of 100,000 characters; stops at the 26th until the file argv[1] is there, and
# leaves a line in the log argv[2] for each
SLOW = """
import os, sys, time
from lmkit.data import InMemory, prepare
from lmkit.text import Byte

class Slow(Byte):
    def encode(self, text, allow_special=False):
        with open(sys.argv[2], "a") as log:
            print(os.getpid(), file=log)
        while text[0] == "z" and not os.path.exists(sys.argv[1]):
            time.sleep(0.01)
        return super().encode(text, allow_special)

Slow.__module__, Slow.__qualname__ = Byte.__module__, Byte.__qualname__
texts = [chr(97 + number % 26) * 100_000 for number in range(40)]
store = prepare(InMemory(texts), Slow(), "all", max_len=8)
print(store.document_count, store.token_count)
"""


def start(go: Path, log: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SLOW, str(go), str(log)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def expected() -> tuple[InMemory, int]:
    texts = [chr(97 + number % 26) * 100_000 for number in range(40)]
    return InMemory(texts), 4_000_000


def await_lines(log: Path, count: int, process: subprocess.Popen[str]) -> None:
    while not log.exists() or log.read_text().count("\n") < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def test_a_killed_process_leaves_nothing_half_valid(tmp_path: Path, cache: Path) -> None:
    log = tmp_path / "log"
    process = start(tmp_path / "go", log)
    await_lines(log, 26, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    left = sorted(path.name for path in (cache / "tokens").iterdir())
    assert [name.partition(".")[2] for name in left] == ["lock", "partial"]

    source, tokens = expected()
    store = prepare(source, Byte(), "all", max_len=8, progress=False)
    assert store.token_count == tokens
    store.verify()
    assert store.folder.name == left[0].partition(".")[0]
    assert not list((cache / "tokens").glob("*.partial"))
    twin = prepare(source, Byte(), "all", max_len=8, cache=tmp_path / "other", progress=False)
    for file in store.folder.iterdir():
        assert file.read_bytes() == (twin.folder / file.name).read_bytes()


def test_of_two_processes_one_works_and_the_other_waits(tmp_path: Path) -> None:
    go, log = tmp_path / "go", tmp_path / "log"
    first = start(go, log)
    await_lines(log, 26, first)
    second = start(go, log)
    assert second.stderr
    assert "waiting for another process to write" in second.stderr.readline()
    go.touch()
    for process in (first, second):
        assert process.communicate(timeout=60)[0] == "40 4000000\n"
    assert set(log.read_text().split()) == {str(first.pid)}


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    limits = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))\n"
    program = (
        limits
        + SLOW.replace("store =", "import lmkit.errors\ntry: store =")
        + ("except lmkit.errors.StorageError as error: sys.exit(f'{error.exit_code} {error}')")
    )
    program = program.replace("print(store.document_count, store.token_count)\n", "")
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), str(tmp_path / "log")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.splitlines()[-1].startswith("74 ")  # a slow machine shows a bar before
    assert "cannot write the cache: File too large; free some space" in done.stderr
    assert not [path for path in (cache / "tokens").iterdir() if path.suffix != ".lock"]


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StorageError, match="set LMKIT_CACHE to another folder") as caught:
        publish(tmp_path / "file" / "x", lambda folder: None)
    assert caught.value.exit_code == 74


def test_a_failing_writer_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "part").write_text("half")
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - raised above, bare
        publish(tmp_path / "x", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["x.lock"]
    publish(tmp_path / "x", lambda folder: None)
    assert not list((tmp_path / "x").iterdir())


def test_a_single_file_goes_on_with_what_is_there_of_it(tmp_path: Path) -> None:
    def half(aside: Path) -> None:
        aside.write_text("half")
        raise ValueError

    def rest(aside: Path) -> None:
        aside.write_text(aside.read_text() + " and half")

    target = tmp_path / "here" / "file"
    with pytest.raises(ValueError):  # noqa: PT011 - raised above, bare
        publish_file(target, half)
    assert not target.exists()
    assert publish_file(target, rest).read_text() == "half and half"
    assert publish_file(target, half) == target
    assert not (tmp_path / "here" / "file.partial").exists()
    with pytest.raises(StorageError, match="set LMKIT_CACHE to another folder"):
        publish_file(target / "below", rest)


def test_everything_is_on_the_disk_before_the_folder_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    real_sync, real_rename = os.fsync, Path.rename

    def sync(descriptor: int) -> None:
        events.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        real_sync(descriptor)

    def rename(path: Path, target: Path) -> Path:
        events.append("rename")
        return real_rename(path, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "rename", rename)
    publish(tmp_path / "x", lambda folder: (folder / "a.bin").write_text("a") and None)
    assert events == ["a.bin", "x.partial", "rename", tmp_path.name]


def test_the_cache_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LMKIT_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.setenv("LMKIT_CACHE", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "lmkit"


def test_a_large_file_is_hashed_once_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"a" * 1000)
    small = file_digest(path)
    monkeypatch.setattr(cache_module, "REMEMBERED_BYTES", 10)
    assert file_digest(path) == small
    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "_write_digest", lambda *_: pytest.fail("read again"))
        assert file_digest(path) == small
    path.write_bytes(b"b" * 1000)
    os.utime(path, ns=(1, 1))
    assert file_digest(path) != small


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone.txt: cannot be read: No such file"):
        file_digest(tmp_path / "gone.txt")
