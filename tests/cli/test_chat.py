"""`lmkit chat` with a real checkpoint: in this process, through pipes, and in a pseudo-terminal."""

from __future__ import annotations

import importlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from lmkit.cli.terminal import Screen
from lmkit.model.generate import Piece
from lmkit.prompts import Prompt
from lmkit.train.loading import save_for_inference

MODULE = '''\
import os
import time

import torch
from torch import nn

from lmkit import LMBase
from lmkit.text import Byte
from lmkit.text.encodings import CHAT_TOKENS


class Letters(Byte):
    """Bytes, and the special tokens of chat."""

    def __init__(self):
        self.special_tokens = {name: 256 + i for i, name in enumerate(CHAT_TOKENS)}
        self.bos = self.eos = 256

    def vocabulary(self):
        return [*(bytes([byte]) for byte in range(256)), *(n.encode() for n in CHAT_TOKENS)]


class Clerk(LMBase):
    """Works out 6*7, says so, and does not stop if the question ends in an exclamation mark."""

    def __init__(self, tokenizer=None):
        super().__init__(tokenizer=tokenizer or Letters(), max_len=200)
        self.following = nn.Parameter(torch.zeros(267))
        ids = self.tokenizer.special_tokens
        said = [ids["<|assistant_start|>"], ids["<|python_start|>"], *b"6*7", ids["<|python_end|>"]]
        said += [ids["<|output_end|>"], *" é".encode(), ids["<|assistant_end|>"]]
        with torch.no_grad():
            for token, after in zip(said, said[1:]):
                self.following[token] = after

    def forward(self, tokens):
        time.sleep(float(os.environ.get("SLOW", "0")))
        ids = tokens[0].tolist()
        end = self.tokenizer.special_tokens["<|user_end|>"]
        following = self.following[tokens].long()
        if end in ids and ids[len(ids) - 2 - ids[::-1].index(end)] == ord("!"):
            following = torch.where(tokens == "é".encode()[1], ord(" "), following)
        return nn.functional.one_hot(following, 267).float()
'''
ANSWER = "[6*7 = 42] é"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of a model of the user's own; its answers hang on nothing but the question's end."""
    folder = tmp_path_factory.mktemp("chat")
    (folder / "chat_clerk.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        model = importlib.import_module("chat_clerk").Clerk()
        yield save_for_inference(model, folder / "checkpoint", {})
    del sys.modules["chat_clerk"]


@pytest.fixture
def chat(
    checkpoint: Path, lmkit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """`lmkit chat CHECKPOINT ...` with that on its standard input."""

    def run(typed: str, *words: str) -> Any:
        monkeypatch.setattr("sys.stdin", StringIO(typed))
        return lmkit("chat", checkpoint, "-t", "0", *words)

    return run


def test_a_pipe_is_answered_line_by_line(chat: Any) -> None:
    done = chat("one\n\ntwo\n")
    assert (done.code, done.err) == (0, "")
    assert done.out == f"{ANSWER}\n" * 2


def test_a_backslash_goes_on_in_the_next_line(chat: Any, tmp_path: Path) -> None:
    file = tmp_path / "talk.jsonl"
    done = chat(f"one\\\ntwo\n/save {file}\nand \\")
    assert done.out == f"{ANSWER}\n" * 2
    (line,) = file.read_text(encoding="utf-8").splitlines()
    parts = [
        {"type": "python", "text": "6*7"},
        {"type": "python_output", "text": "42"},
        {"type": "text", "text": " é"},
    ]
    assert json.loads(line) == {
        "messages": [
            {"role": "user", "content": "one\ntwo"},
            {"role": "assistant", "content": parts},
        ]
    }
    assert Prompt.of(json.loads(line)).messages[1].text == " é"


def test_save_writes_over_its_own_file_only(chat: Any, tmp_path: Path) -> None:
    file = tmp_path / "talk.jsonl"
    assert chat(f"one\n/save {file}\ntwo\n/save {file}\n").code == 0
    assert len(json.loads(file.read_text())["messages"]) == 4
    done = chat(f"one\n/save {file}\n")
    assert done.code == 2
    assert f"{file}: there is such a file already" in done.error
    assert len(json.loads(file.read_text())["messages"]) == 4
    assert "/save needs a file" in chat("/save\n").error
    done = chat(f"/save {tmp_path / 'no' / 'talk.jsonl'}\n")
    assert (done.code, "cannot save: No such file" in done.error) == (74, True)


def test_reset_and_system(chat: Any, tmp_path: Path) -> None:
    file = tmp_path / "talk.jsonl"
    words = f"one\n/reset\n/system be  kind\ntwo\n/save {file}\n"
    assert chat(words, "--system", "be good").code == 0
    messages = json.loads(file.read_text())["messages"]
    assert messages[:2] == [
        {"role": "system", "content": "be  kind"},
        {"role": "user", "content": "two"},
    ]
    assert len(messages) == 3
    other = tmp_path / "other.jsonl"
    assert chat(f"/system\none\n/save {other}\n", "--system", "be good").code == 0
    assert json.loads(other.read_text())["messages"][0]["role"] == "user"


def test_quit_leaves_and_help_helps(chat: Any) -> None:
    done = chat("/help\n/quit\none\n")
    assert done.code == 0
    for command in ("/reset", "/system TEXT", "/save FILE", "/help", "/quit"):
        assert command in done.out
    assert ANSWER not in done.out


def test_a_command_that_there_is_not(chat: Any) -> None:
    done = chat("/rest\n")
    assert done.code == 2
    assert "there is no /rest; did you mean '/reset'?" in done.error
    assert chat("/usr/bin is what?\n").out == f"{ANSWER}\n"


def test_one_question(chat: Any) -> None:
    assert chat("", "-p", "one").out == f"{ANSWER}\n"
    assert chat("one\ntwo", "-p", "-").out == f"{ANSWER}\n"


def test_sampling_options(chat: Any) -> None:
    assert chat("", "-p", "on!", "-n", "15").out == "[6*7 = 42] é é\n"
    assert chat("", "-p", "on!", "--stop", "é é").out == "[6*7 = 42] \n"
    assert chat("", "-p", "on!", "--stop-id", "32").out == "[6*7 = 42]\n"
    done = chat("", "-p", "on!", "--min-p", "2")
    assert (done.code, "--min-p: min_p is 2.0" in done.error) == (2, True)
    assert "--stop-id: stop_ids is (-4,)" in chat("", "-p", "on!", "--stop-id", "-4").error


def test_generate_has_them_too(checkpoint: Path, lmkit: Callable[..., Any]) -> None:
    done = lmkit("generate", checkpoint, "-p", "a", "--samples", "2", "-n", "3", "-t", "0")
    assert done.out == "a\x00\x00\x00\n\n" * 2
    done = lmkit("generate", checkpoint, "-p", "a", "--stop-id", "0", "-t", "0")
    assert done.out == "a\n"
    done = lmkit("generate", checkpoint, "--samples", "0")
    assert (done.code, "--samples: 0 samples" in done.error) == (2, True)
    words = "-p", "a", "--samples", "3", "-n", "3", "-t", "0", "--batch-size", "2", "--lookup", "4"
    for given in (words, words[:-1]):  # --lookup needs no number
        assert lmkit("generate", checkpoint, *given).out == "a\x00\x00\x00\n\n" * 3
    done = lmkit("generate", checkpoint, "--batch-size", "0")
    assert (done.code, "--batch-size: 0 rows at once" in done.error) == (2, True)
    done = lmkit("generate", checkpoint, "--lookup", "4")
    assert (done.code, "--lookup: lookup is for the likeliest ids" in done.error) == (2, True)


def test_bytes_that_are_no_text_do_not_end_the_talk(checkpoint: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lmkit", "chat", str(checkpoint), "-t", "0"],
        input="caf\u00e9\n".encode("latin1") + "😀\n".encode(),
        cwd=checkpoint.parent,
        env={**os.environ, "PYTHONUTF8": "1"},
        capture_output=True,
        timeout=200,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == f"{ANSWER}\n" * 2


# --- a terminal -----------------------------------------------------------------------------------

pty = pytest.importorskip("pty")
# what becomes a process with the terminal as its own, so that Ctrl+C reaches it
# a job in the background has Ctrl+C switched off, and its children inherit that
OWN_TERMINAL = """\
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGINT, signal.SIG_DFL)
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


class Terminal:
    """A program in a pseudo-terminal, and a person before it."""

    def __init__(self, *words: str, cwd: Path, **environment: str) -> None:
        self.screen, child = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWN_TERMINAL, *words],
            stdin=child,
            stdout=child,
            stderr=child,
            cwd=cwd,
            env={**os.environ, "TERM": "xterm", "PYTHONUTF8": "1", **environment},
            start_new_session=True,
        )
        os.close(child)
        self.seen = b""

    def type(self, keys: str) -> None:
        if keys.endswith("\x03"):
            # CPython's readline waits for the next key if a signal comes between its prompt and its
            # wait; no person is as fast
            time.sleep(0.2)
        os.write(self.screen, keys.encode())

    def until(self, *wanted: str, seconds: float = 200) -> str:
        """All that is shown until all of that is, the last of it at the end; then forgets it."""
        end = time.monotonic() + seconds
        pattern = re.compile(".*?".join(map(re.escape, wanted)).encode(), re.DOTALL)
        while not (found := pattern.search(self.seen)):
            ready, _, _ = select.select([self.screen], [], [], max(0.0, end - time.monotonic()))
            assert ready, self.seen.decode(errors="replace")
            try:
                self.seen += os.read(self.screen, 4096)
            except OSError:  # the program has left
                raise AssertionError(self.seen.decode(errors="replace")) from None
        shown, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return shown.decode(errors="replace")

    def left(self) -> int:
        """The exit code of a program that is leaving."""
        while True:
            try:
                if not os.read(self.screen, 4096):
                    break
            except OSError:
                break
        return self.process.wait(timeout=200)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.screen)


@pytest.fixture
def terminal(checkpoint: Path) -> Iterator[Callable[..., Terminal]]:
    opened = []

    def start(*words: str, **environment: str) -> Terminal:
        command = ["-m", "lmkit", "chat", str(checkpoint), "-t", "0", *words]
        started = Terminal(*command, cwd=checkpoint.parent, **environment)
        opened.append(started)
        return started

    yield start
    for one in opened:
        one.close()


def test_a_talk_in_a_terminal(terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    person = terminal(SLOW="0.02")
    person.until("Clerk, 267 parameters", "> ")
    person.type("one\n")
    # the call is dim, and the text is not
    person.until("\x1b[2m[6*7 = 42]\x1b[0m é\r\n", "> ")

    person.type("go on!\n")
    person.until("é é")
    person.type("\x03")  # stops the answer, not the program
    shown = person.until("> ")
    assert "to leave" not in shown

    person.type("\x1b[200~pasted\nin lines\x1b[201~\n")
    assert person.until("42", "é\r\n", "> ").count("42") == 1
    person.type("one \\\n")
    person.until("\r\n", ". ")
    person.type("line\n")
    person.until("é\r\n", "> ")
    person.type("/halp\n")
    person.until("there is no /halp; did you mean '/help'?", "> ")

    file = tmp_path / "talk.jsonl"
    person.type(f"/save {file}\n")
    person.until("8 messages are in", "> ")
    said = Prompt.of(json.loads(file.read_text())).messages
    assert [said[i].text for i in (0, 2, 4, 6)] == [
        "one",
        "go on!",
        "pasted\nin lines",
        "one \nline",
    ]
    assert re.fullmatch("( é)+ ?", said[3].text)

    person.type("half a line\x03")
    person.until("Ctrl+C again leaves", "> ")
    person.type("one\n")
    person.until("é\r\n", "> ")
    person.type("\x03")
    person.until("Ctrl+C again leaves", "> ")
    person.type("\x03")
    assert person.left() == 0


READER = """\
import sys
{without}
from lmkit.cli.terminal import read_turn, reader
read = reader()
while True:
    print("turn", ascii(read_turn(read)))
"""


@pytest.mark.parametrize("without", ["", "sys.modules['readline'] = None"])
def test_a_pasted_block_is_one_turn(without: str, tmp_path: Path) -> None:
    person = Terminal("-c", READER.format(without=without), cwd=Path(__file__).parent.parent.parent)
    try:
        person.until("> ")
        person.type("é\n")
        person.until(r"turn '\xe9'", "> ")
        # without readline nothing marks a pasted block but that it comes at once
        person.type("a\nb\\\n" if without else "\x1b[200~a\nb\\\x1b[201~\n")
        person.until(". ")
        person.type("c\n")
        person.until(r"turn 'a\nb\nc'", "> ")
        person.type("\x04")
        person.until("EOFError")
    finally:
        person.close()


def test_what_a_model_writes_does_not_steer_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = Piece(0, "text", "a\x1b[2Jb\x9bc\td\re\x00\n")
    Screen().show(written)
    assert capsys.readouterr().out == written.text
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    Screen().show(written)
    assert capsys.readouterr().out == "a␛[2Jb\ufffdc\td␍e␀\n"


def test_calls_one_after_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    for kind, text in [
        ("python", "1+1"),
        ("python_output", "2"),
        ("python", "import"),
        ("text", "so"),
        ("python", "3"),
    ]:
        screen.show(Piece(0, kind, text))
    screen.end()
    assert capsys.readouterr().out == "[1+1 = 2][import] so[3]\n"


def test_what_else_a_terminal_shows(terminal: Callable[..., Terminal]) -> None:
    person = terminal("-n", "6", NO_COLOR="1")
    person.until("> ")
    person.type("one\n")
    shown = person.until("[6*7", "cut after 6 tokens; --max-new-tokens allows more", "> ")
    assert "\x1b[2m" not in shown
    person.type("/reset\n")
    person.until("(forgotten)", "> ")
    person.type("x" * 150 + "\n")
    person.until("cut after", "> ")
    person.type("x" * 150 + "\n")
    person.until("the first 2 messages no longer fit", "> ")
    person.type("\x04")
    assert person.left() == 0


def test_ctrl_c_ends_a_pipe(checkpoint: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "lmkit", "chat", str(checkpoint), "-t", "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=checkpoint.parent,
        env={**os.environ, "SLOW": "0.02", "PYTHONUTF8": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"go on!\n")
    process.stdin.flush()
    assert process.stdout.read(1) == b"["
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=200)
    assert (process.returncode, err) == (130, b"interrupted\n")
