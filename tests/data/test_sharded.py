"""Sources that are read shard by shard: their stores, their rows, and when each is made."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmkit.data import BatchStream, HubDataset, InMemory, Mixture, Source, open_rows, prepare
from lmkit.data.holdout import Split
from lmkit.data.sharded import ShardedStore
from lmkit.errors import DataError
from lmkit.prompts import Prompt
from lmkit.text import Batch, Byte

WIDTH = 16
Gate = Callable[[int], None]


class Shards(Source):
    """Texts in shards; a gate is passed before each is read, and may be shut."""

    def __init__(self, texts: list[list[str]], gate: Gate = lambda number: None) -> None:
        self.texts = texts
        self.gate = gate

    def documents(self, split: Split) -> Iterator[Prompt]:
        for shard in self.shards("train"):
            yield from shard.documents("all")

    def fingerprint(self) -> str:
        return InMemory([text for shard in self.texts for text in shard]).fingerprint()

    def shards(self, split: Split) -> list[Source]:
        return [_Shard(texts, number, self.gate) for number, texts in enumerate(self.texts)]


class _Shard(InMemory):
    def __init__(self, texts: list[str], number: int, gate: Gate) -> None:
        super().__init__(texts, holdout=0)
        self.number = number
        self.gate = gate

    def documents(self, split: Split) -> Iterator[Prompt]:
        self.gate(self.number)
        return super().documents(split)


def some_texts(shards: int = 3, texts: int = 5) -> list[list[str]]:
    return [
        [f"shard {shard} text {text} " * (text + 2) for text in range(texts)]
        for shard in range(shards)
    ]


def opened(source: Source, seed: int | None = 1, whole: bool = False, **options: Any) -> Any:
    store = prepare(source, Byte(), "train", max_len=WIDTH, whole=whole, progress=False)
    return open_rows(store, width=WIDTH, seed=seed, tokenizer=Byte(), **options)


def said(batch: Batch) -> list[str]:
    return [Byte().decode(row.tolist()) for row in batch.inputs]


def same(one: Batch, other: Batch) -> bool:
    return bool((one.inputs == other.inputs).all() and (one.targets == other.targets).all())


class TestRows:
    def test_one_shard_after_another_each_shuffled_in_its_own_way(self) -> None:
        rows = opened(Shards([["abcdefgh" * 40] * 4] * 3), whole=True)
        third = rows.rows_per_epoch // 3
        parts = [said(rows.batch(start, third)) for start in (0, third, 2 * third)]
        assert parts[0] != parts[1] != parts[2] != parts[0]
        rows = opened(Shards(some_texts()), whole=True)
        found = "".join(said(rows.batch(0, rows.rows_per_epoch)))
        begin = [found.index(f"shard {number}") for number in range(3)]
        end = [found.rindex(f"shard {number}") for number in range(3)]
        assert begin[0] < end[0] < begin[1] < end[1] < begin[2]

    def test_an_epoch_has_every_token_once_and_the_next_is_another(self) -> None:
        texts = some_texts()
        rows = opened(Shards(texts), whole=True)
        count = rows.rows_per_epoch
        wanted = sum(len(text) for shard in texts for text in shard)
        for epoch in (0, 1):
            pieces = [rows.samples(number) for number in range(epoch * count, (epoch + 1) * count)]
            letters = [int(token) for row in pieces for piece in row for token in piece.ids]
            assert sum(token < 256 for token in letters) == wanted
        assert said(rows.batch(0, count)) != said(rows.batch(count, count))

    @settings(max_examples=10)
    @given(st.lists(st.integers(0, 90), min_size=1, max_size=6), st.integers(0, 3))
    def test_a_row_depends_on_its_number_only(self, numbers: list[int], seed: int) -> None:
        straight = opened(Shards(some_texts()), seed, whole=True)
        asked = opened(Shards(some_texts()), seed)
        for number in numbers:
            assert same(asked.batch(number, 2), straight.batch(number, 2))

    def test_the_ranks_share_a_batch_and_some_have_none_of_it(self) -> None:
        shares = [
            BatchStream(opened(Shards(some_texts())), rows_per_batch=5, last_row=27, rank=r, size=2)
            for r in range(2)
        ]
        alone = BatchStream(opened(Shards(some_texts())), rows_per_batch=5, last_row=27)
        for batch in alone:
            parts = [next(share).inputs for share in shares]
            assert np.array_equal(np.concatenate(parts), batch.inputs)

    def test_more_text_in_later_shards_changes_no_earlier_row(self) -> None:
        few, many = opened(Shards(some_texts(2)), whole=True), opened(Shards(some_texts(4)))
        assert same(few.batch(0, few.rows_per_epoch), many.batch(0, few.rows_per_epoch))

    def test_without_a_seed_it_is_the_order_of_the_texts(self) -> None:
        rows = opened(Shards(some_texts()), seed=None, whole=True)
        text = "".join(said(rows.batch(0, rows.rows_per_epoch)))
        assert [text.index(f"shard {n} text 0") for n in (0, 1, 2)] == sorted(
            text.index(f"shard {n} text 0") for n in (0, 1, 2)
        )

    def test_in_a_mixture_each_source_has_its_share(self) -> None:
        sources = [{"source": Shards(some_texts()), "weight": 3}]
        sources += [{"source": InMemory(["other"] * 40, holdout=0), "weight": 1}]
        rows = opened(Mixture(sources))
        found = said(rows.batch(0, 1024))
        assert sum("other" in text for text in found) == 256
        whole = opened(Mixture(sources), whole=True)
        assert same(rows.batch(300, 7), whole.batch(300, 7))

    def test_texts_and_prompts_do_not_mix(self) -> None:
        source = Shards(some_texts(2))
        prompts = InMemory([{"prompt": "a", "truth": "b"}], holdout=0)
        source.shards = lambda split: [_Shard(source.texts[0], 0, source.gate), prompts]
        with pytest.raises(DataError, match="texts and prompts in one source"):
            opened(source, pack=False).batch(100, 1)


# opens a store whose second shard would take a minute, and ends when that is under way
LEAVING = """
import threading, time
from lmkit.data import InMemory, Source, prepare
from lmkit.prompts import Prompt
from lmkit.text import Byte

begun = threading.Event()

class Slow(Byte):
    def encode(self, text, allow_special=False):
        if text[0] == "b":
            begun.set()
            time.sleep(0.1)
        return super().encode(text, allow_special)

Slow.__module__, Slow.__qualname__ = Byte.__module__, Byte.__qualname__

class Long(Source):
    def documents(self, split):
        return (Prompt(text="b" * 2**20) for _ in range(600))
    def fingerprint(self):
        return "long"

class Two(Source):
    documents = fingerprint = None
    def shards(self, split):
        return [InMemory(["a"]), Long()]

prepare(Two(), Slow(), "train", max_len=8, whole=False, progress=False)
begun.wait()
print("began")
"""


class Gates:
    """Shards that can be kept shut."""

    def __init__(self, count: int, open_: int) -> None:
        self.events = [threading.Event() for _ in range(count)]
        self.came = [threading.Event() for _ in range(count)]
        self.passed: list[int] = []
        for event in self.events[:open_]:
            event.set()

    def __call__(self, number: int) -> None:
        self.came[number].set()
        assert self.events[number].wait(60)
        self.passed.append(number)


class TestAhead:
    def test_the_first_rows_come_while_the_next_shard_is_made(self) -> None:
        gates = Gates(4, open_=1)
        rows = opened(Shards(some_texts(4), gates))
        first = rows.rows_per_epoch // 4
        assert said(rows.batch(0, first))
        assert set(gates.passed) == {0}
        gates.events[1].set()
        rows.batch(first, 1)
        assert gates.came[2].wait(60)  # the third is begun with the second
        assert not gates.came[3].is_set()

    def test_what_goes_wrong_is_told_when_the_shard_is_needed(self) -> None:
        def gate(number: int) -> None:
            if number == 1:
                raise DataError("has no file", at="shard 1")

        rows = opened(Shards(some_texts(), gate))
        first = rows.rows_per_epoch // 3
        stream = BatchStream(rows, rows_per_batch=first)
        next(stream)
        for _ in range(2):
            with pytest.raises(DataError, match="shard 1: has no file"):
                next(stream)
        stream.close()

    def test_the_whole_is_made_before_where_it_is_asked_for(self) -> None:
        gates = Gates(3, open_=3)
        store = prepare(Shards(some_texts(), gates), Byte(), "train", max_len=8, progress=False)
        assert isinstance(store, ShardedStore)
        assert set(gates.passed) == {0, 1, 2}
        assert len(store.ready) == 3
        assert store.token_count == sum(len(text) for shard in some_texts() for text in shard)
        assert store.document_count == 15

    def test_until_then_the_rows_of_an_epoch_are_an_estimate(self) -> None:
        texts = some_texts(2)
        texts.append(texts[0] * 3)
        rows = opened(Shards(texts))
        exact = opened(Shards(texts), whole=True).rows_per_epoch
        assert rows.rows_per_epoch < exact
        rows.batch(exact, 1)
        assert rows.rows_per_epoch == exact

    def test_a_shard_is_made_once(self) -> None:
        gates = Gates(3, open_=3)
        opened(Shards(some_texts(), gates), whole=True)
        passed = len(gates.passed)
        opened(Shards(some_texts(), gates), whole=True).batch(0, 50)
        assert len(gates.passed) == passed

    def test_a_process_that_ends_does_not_wait_and_leaves_nothing(self, cache: Path) -> None:
        done = subprocess.run(
            [sys.executable, "-c", LEAVING], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "began\n", "")
        kinds = {path.suffix for path in (cache / "tokens").iterdir()}
        assert ".lock" in kinds
        assert ".partial" not in kinds

    def test_a_cut_file_is_seen(self) -> None:
        store = prepare(Shards(some_texts()), Byte(), "train", max_len=8, progress=False)
        rows = open_rows(store, width=WIDTH, seed=1, tokenizer=Byte())
        (store.ready[0].folder / "tokens.bin").write_bytes(b"")
        with pytest.raises(Exception, match="cut from"):
            rows.batch(0, 1)
        with pytest.raises(Exception, match="cut from"):
            store.check()


def _parquet(texts: list[str]) -> bytes:
    import pyarrow.parquet

    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), file)
    return file.getvalue()


class TestFromTheHub:
    @pytest.fixture
    def source(self, web: Any) -> HubDataset:
        pytest.importorskip("huggingface_hub")
        pytest.importorskip("pyarrow")
        files = {f"s{n}.parquet": _parquet(texts) for n, texts in enumerate(some_texts(4))}
        web.hub("who/what", {**files, "held.parquet": _parquet(["held out " * 9])})
        return HubDataset(
            "who/what", "s*.parquet", text="text", validation="held.parquet", shuffled=True
        )

    def loaded(self, web: Any) -> list[str]:
        return [path.rpartition("/")[2] for path in web.paths() if "/resolve/" in path]

    def test_the_first_batch_comes_before_the_last_file_is_asked_for(
        self, web: Any, source: HubDataset
    ) -> None:
        before = source.fingerprint()
        assert self.loaded(web) == []
        stream = BatchStream(opened(source), rows_per_batch=2)
        assert len(next(stream).inputs) == 2
        stream.close()
        assert set(self.loaded(web)) <= {"s0.parquet", "s1.parquet"}
        held_out = prepare(source, Byte(), "validation", max_len=WIDTH, progress=False)
        assert held_out.token_count == len("held out " * 9)
        assert "s3.parquet" not in self.loaded(web)
        assert source.available()
        assert source.fingerprint() == before

    def test_killed_and_resumed_it_gives_the_same_batches(
        self, web: Any, source: HubDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        straight = [batch.inputs.tolist() for batch in self.stream(source)]
        assert set(self.loaded(web)) == {f"s{number}.parquet" for number in range(4)}
        for number, kept in ((1, True), (5, True), (8, False)):
            if not kept:  # another machine
                monkeypatch.setenv("LMKIT_CACHE", str(tmp_path / "another"))
            resumed = self.stream(source, first_row=number * 6)
            assert [batch.inputs.tolist() for batch in resumed] == straight[number:]

    def stream(self, source: HubDataset, first_row: int = 0) -> BatchStream:
        rows = opened(source)
        return BatchStream(rows, rows_per_batch=6, first_row=first_row, last_row=100)
