"""tokenizer: text to shards of tokens, and text to a vocabulary, in bytes a second.

    python -m benchmarks tokenizer

Shards are what training reads: lmkit's are whole when they are done, checked, hashed and on the
disk, and its contestant is timed until then. tiktoken's own batch, with a thread a core, gives
lists in memory, and no more. Vocabularies are learned with lmkit, and with Hugging Face's
`tokenizers` where that is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

from benchmarks.contest import Contestant, compete
from benchmarks.repeated import Repeated
from benchmarks.table import Report

VOCABULARIES = ("python4k", "gpt2")
SHORT = 400  # characters of a document, where documents are short
LEARNED = 8192  # entries
CORPUS_BYTES = 20_000_000  # of the text to learn from
SMOKE_BYTES = 50_000


class Shards(Repeated):
    """lmkit's way from documents to tokens on the disk, as `lmkit train` takes it."""

    def __init__(self, vocabulary: str, characters: int | None, size: int) -> None:
        from lmkit.data import InMemory
        from lmkit.text import Tiktoken

        texts = stdlib_texts(characters, size)
        self._bytes = _size(texts)
        self._source = InMemory(texts)
        self._tokenizer = Tiktoken(vocabulary)
        self._tokenizer.encode("warm")

    def work(self) -> float:
        """All documents, into a cache of their own."""
        from lmkit.data import prepare

        folder = tempfile.mkdtemp(prefix="lmkit-benchmark-")
        prepare(self._source, self._tokenizer, "all", max_len=1, cache=Path(folder), progress=False)
        shutil.rmtree(folder)
        return self._bytes


class Lists(Repeated):
    """tiktoken's batch of all documents, with a thread a core."""

    def __init__(self, vocabulary: str, characters: int | None, size: int) -> None:
        from lmkit.text import Tiktoken

        self._texts = stdlib_texts(characters, size)
        self._bytes = _size(self._texts)
        self._encoding = Tiktoken(vocabulary).encoding
        self._encoding.encode_ordinary("warm")

    def work(self) -> float:
        """All documents, to lists."""
        self._encoding.encode_ordinary_batch(self._texts, num_threads=os.cpu_count() or 1)
        return self._bytes


class Merges(Repeated):
    """lmkit learning a vocabulary."""

    def __init__(self, entries: int, size: int) -> None:
        self._texts = stdlib_texts(None, size)
        self._bytes = _size(self._texts)
        self._entries = entries

    def work(self) -> float:
        """The whole vocabulary."""
        from lmkit.text.bpe import train

        train(self._texts, self._entries)
        return self._bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what only this benchmark takes."""
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a round, at least")


def run(arguments: argparse.Namespace) -> int:
    """Measure shards and vocabularies; print and write what was found."""
    if arguments.smoke:
        vars(arguments).update(rounds=1, seconds=0.01)
    size = SMOKE_BYTES if arguments.smoke else CORPUS_BYTES
    report = Report("tokenizer", arguments, {"bytes": size, "short": SHORT, "learned": LEARNED})
    for vocabulary in VOCABULARIES[:1] if arguments.smoke else VOCABULARIES:
        for documents, characters in {"as they are": None, f"of {SHORT} characters": SHORT}.items():
            common = {"vocabulary": vocabulary, "characters": characters, "size": size}
            contestants = [
                Contestant("lmkit, to shards", "benchmarks.tokenizer.Shards", common),
                Contestant("tiktoken, to lists", "benchmarks.tokenizer.Lists", common),
            ]
            _race(f"{vocabulary}, documents {documents}", contestants, arguments, report)
    if learners := _learners(300 if arguments.smoke else LEARNED, size):
        _race(f"learning {LEARNED:,} entries", learners, arguments, report)
    return report.finish()


def _learners(entries: int, size: int) -> list[Contestant]:
    """Those that are installed."""
    entry_of = {
        "rustbpe": ("lmkit (rustbpe)", "benchmarks.tokenizer.Merges"),
        "tokenizers": ("hugging face", "benchmarks.peers.huggingface.Merges"),
    }
    return [
        Contestant(name, entry, {"entries": entries, "size": size})
        for package, (name, entry) in entry_of.items()
        if importlib.util.find_spec(package)
    ]


def _race(
    name: str, contestants: list[Contestant], arguments: argparse.Namespace, report: Report
) -> None:
    result = compete(contestants, rounds=arguments.rounds, seconds=arguments.seconds, unit="bytes")
    report.note(name, result)
    last = contestants[-1].name
    for each in contestants:
        rate = {"MB/s": result.rate(each.name) / 1e6, "x the last": result.ratio(each.name, last)}
        report.add(setting=name, contestant=each.name, **rate)


def stdlib_texts(characters: int | None, size: int) -> list[str]:
    """Python's standard library, its first `size` characters or so.

    Args:
        characters: cut the files into documents of so many.
    """
    from lmkit.data.corpora import PythonStdlib

    texts: list[str] = []
    total = 0
    for document in PythonStdlib().documents("train"):
        text = document.text or ""
        step = characters or max(1, len(text))
        texts += [text[at : at + step] for at in range(0, len(text), step)]
        total += len(text)
        if total >= size:
            break
    return texts


def _size(texts: list[str]) -> int:
    return sum(len(text.encode()) for text in texts)
