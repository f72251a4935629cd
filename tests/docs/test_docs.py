"""The documentation is true: its examples run, its excerpts stand in the code, its links lead on.

A fenced block whose first line is `# some/file.py`, `# some.yaml` or `{#- some.jinja` is an
excerpt of that file if the repository has it; otherwise it is a file of the section's example. An
example is run as its reader would: its files in one folder beside a `text.txt`, its console
commands one after the other. Python's standard library has some modules only then.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import pkgutil
import re
import runpy
import shlex
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import yaml

import lmkit
from lmkit.cli import COMMANDS as LMKIT_COMMANDS
from lmkit.cli import MODULES, main
from lmkit.config import load_experiment
from lmkit.data import corpora

ROOT = Path(lmkit.__file__).parent.parent
PAGES = sorted([*ROOT.glob("README.md"), *(ROOT / "docs").glob("*.md")])
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"(?:#|\{#-) ([\w./-]+\.(?:py|yaml|jinja))(?:[\s:].*)?")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
DOTTED = re.compile(r"`(lmkit(?:_models)?(?:\.\w+)+)`")
NOT_MODULES = {"lmkit.plugins"}  # a group of entry points
SHELLS = ("console", "bash", "sh", "shell")
PROGRAM = re.compile(r"(?:\w+=\S* +)*(?:lmkit|python|torchrun)\b.*")
NO_EXAMPLE = {"", "Extending lmkit", "How a class is named and checked"}
TEXT = inspect.getsource(argparse)  # 100 KB
STEPS = 3  # longer stages are cut to it
WEIGHED = {"reward", "preference_loss"}  # measured in steps of `lmkit.rl`


@dataclass(frozen=True)
class Block:
    """A fenced block: what it says it is, where it stands, and the file that it names."""

    language: str
    text: str
    at: str
    name: str | None

    @property
    def excerpt_of(self) -> Path | None:
        """The repository's file that it quotes."""
        file = ROOT / self.name if self.name else None
        return file if file is not None and file.is_file() else None


@dataclass(frozen=True)
class Section:
    """What stands between two headings of the first or second level."""

    title: str
    blocks: tuple[Block, ...]

    @property
    def files(self) -> dict[str, str]:
        """The files of its example, by name."""
        named = [block for block in self.blocks if block.name and not block.excerpt_of]
        return {str(block.name): block.text for block in named}

    @property
    def commands(self) -> list[tuple[str, list[str]]]:
        """Its commands, each with the lines of output that are shown under it."""
        shells = [block for block in self.blocks if block.language in SHELLS]
        return [found for block in shells for found in commands_in(block.text)]


def commands_in(text: str) -> Iterator[tuple[str, list[str]]]:
    """With a `$ ` anywhere, only what follows one is a command and the rest is output."""
    lines = text.replace("\\\n", " ").splitlines()
    prompted = any(line.startswith("$ ") for line in lines)
    found: list[tuple[str, list[str]]] = []
    for line in filter(str.strip, lines):
        if not prompted or line.startswith("$ "):
            found.append((line.removeprefix("$ "), []))
        elif found:
            found[-1][1].append(line)
    return iter(found)


def words_of(command: str) -> list[str]:
    """`lmkit` or `python` and what it is given; comments, variables, what is piped on left out.

    Nothing for another program, or for a line of output.
    """
    if not PROGRAM.fullmatch(command):
        return []
    words = shlex.split(command, comments=True)
    while words and re.fullmatch(r"\w+=.*", words[0]):
        words.pop(0)
    ends = [words.index(end) for end in ("|", ">", "&&", "&") if end in words]
    words = words[: min(ends, default=len(words))]
    if "-m" in words:  # torchrun ... -m lmkit train, python -m lmkit train
        words = words[words.index("-m") + 1 :]
    return words


@cache
def sections(page: Path) -> tuple[Section, ...]:
    text = page.read_text(encoding="utf-8")
    fences = list(FENCE.finditer(text))
    inside = [range(fence.start(), fence.end()) for fence in fences]
    heads = [
        head
        for head in re.finditer(r"^##? +(.+)$", text, re.MULTILINE)
        if not any(head.start() in fence for fence in inside)
    ]
    starts = [0, *(head.start() for head in heads), len(text)]
    titles = ["", *(head[1] for head in heads)]
    return tuple(
        Section(title, tuple(blocks_of(page, text, fences, start, stop)))
        for title, start, stop in zip(titles, starts, starts[1:], strict=False)
    )


def blocks_of(
    page: Path, text: str, fences: list[re.Match[str]], start: int, stop: int
) -> Iterator[Block]:
    for fence in fences:
        if start <= fence.start() < stop:
            content = textwrap.dedent(fence[3])
            first = FILE_NAME.fullmatch(content.partition("\n")[0])
            line = text.count("\n", 0, fence.start()) + 1
            yield Block(fence[2], content, f"{page.name}:{line}", first[1] if first else None)


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


ALL = [(page, section) for page in PAGES for section in sections(page)]
BLOCKS = [block for _, section in ALL for block in section.blocks]
EXAMPLES = [
    pytest.param(section, id=f"{page.stem}: {section.title}")
    for page, section in ALL
    if section.files
]
FREE = [pytest.param(block, id=block.at) for block in BLOCKS if not block.excerpt_of]
EXCERPTS = [pytest.param(block, id=block.at) for block in BLOCKS if block.excerpt_of]
COMMANDS = [
    pytest.param(words, id=f"{page.stem}: {command}")
    for page, section in ALL
    for command, _ in section.commands
    if (words := words_of(command))[:1] == ["lmkit"]
]


# ---------------------------------------------------------------------------- examples


def shortened(words: list[str], folder: Path) -> list[str]:
    """An `lmkit` command, its stages cut to some steps."""
    if words[:1] in (["generate"], ["chat"]):
        return [*words, "-n", "8"]
    if words[:1] != ["train"]:
        return words
    more = []
    for stage in load_experiment(folder / words[1], words[2:]).stages:
        if stage.steps is None or stage.steps > STEPS:
            more.append(f"stages.{stage.name}.steps={STEPS}")
    return [*words, *more]


@pytest.mark.parametrize("section", EXAMPLES)
def test_an_example_runs(
    section: Section,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    library = [name for name in corpora._python_files(corpora.PythonStdlib().root) if len(name) < 7]
    monkeypatch.setattr(corpora, "_python_files", lambda root: library)
    for name, text in section.files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text, encoding="utf-8")
    run = []
    for command, shown in section.commands:
        words = words_of(command)
        run += words
        if words[:1] == ["lmkit"]:
            assert main(shortened(words[1:], tmp_path)) == 0, capsys.readouterr().err
        elif words[:1] == ["python"]:
            runpy.run_path(words[1], run_name="__main__")
            printed = capsys.readouterr().out.splitlines()
            assert [line for line in shown if line not in printed] == []
    scripts = [name for name in section.files if name.endswith(".yaml")]
    assert [name for name in scripts if name not in run] == [], "no command trains it"
    for metrics in tmp_path.glob("runs/*/metrics.jsonl"):
        steps = [json.loads(line) for line in metrics.read_text().splitlines()]
        assert len(steps) >= 2
        # what rewards and preferences weigh may be below 0
        assert all(step["loss"] > 0 for step in steps if not WEIGHED & step.keys())


# ---------------------------------------------------------------------------- all that is shown


def test_every_kind_of_plug_in_has_an_example() -> None:
    bare = {
        section.title for section in sections(ROOT / "docs" / "extending.md") if not section.files
    }
    assert bare == NO_EXAMPLE


@pytest.mark.parametrize("block", FREE)
def test_a_block_is_well_formed(block: Block) -> None:
    if block.language == "python":
        compile(block.text, block.at, "exec", dont_inherit=True)
    elif block.language == "yaml":
        yaml.safe_load(block.text)
    elif block.language == "json":
        json.loads(block.text)


@pytest.mark.parametrize("block", EXCERPTS)
def test_an_excerpt_stands_in_the_code(block: Block) -> None:
    """Line by line as in the file, but for the indentation; a line `...` leaves something out."""
    assert block.excerpt_of is not None
    source = [line.strip() for line in block.excerpt_of.read_text(encoding="utf-8").splitlines()]
    quoted = [line.strip() for line in block.text.splitlines()[1:] if line.strip()]
    at = 0
    for piece in "\n".join(quoted).split("\n...\n"):
        wanted = piece.splitlines()
        found = [i for i in range(at, len(source)) if source[i : i + len(wanted)] == wanted]
        assert found, f"{block.at}: not in {block.name}:\n{piece}"
        at = found[0] + len(wanted)


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_is_one(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line takes it; what it would do is left out."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    for command in LMKIT_COMMANDS:
        module = importlib.import_module(f"lmkit.cli.{MODULES.get(command, command)}")
        monkeypatch.setattr(module, "run", lambda arguments: 0)
    assert main(words[1:]) == 0
    for word in words:
        if word.startswith("experiments/"):
            assert (ROOT / word).is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
class TestEveryPage:
    def test_its_links_lead_to_files_and_headings(self, page: Path) -> None:
        broken = []
        for link in LINK.findall(prose(page)):
            if not re.match(r"\w+:", link):
                path, _, anchor = link.partition("#")
                file = (page.parent / path) if path else page
                if not file.exists() or (anchor and anchor not in anchors(file)):
                    broken.append(link)
        assert broken == []

    def test_its_dotted_names_are_there(self, page: Path) -> None:
        for name in set(DOTTED.findall(prose(page))) - NOT_MODULES:
            pkgutil.resolve_name(name)


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub links to them."""
    heads = re.findall(r"^#+ +(.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_every_room_of_the_house_is_described() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = {file.parent.name for file in (ROOT / "lmkit").glob("*/*.py")}
    assert [room for room in sorted(rooms) if f"`{room}/`" not in text] == []
