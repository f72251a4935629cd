from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lmkit.data import Mixture, Source, prepare
from lmkit.data.documents import as_document, read_documents
from lmkit.data.mixture import Share
from lmkit.errors import DataError, PluginError
from lmkit.prompts import Prompt
from lmkit.text import Byte


class Given(Source):
    """Gives what it was given, as a user's source may."""

    def __init__(self, *values: Any) -> None:
        self.values = values

    def documents(self, split: str) -> Iterator[Any]:
        yield from self.values

    def fingerprint(self) -> str:
        return f"given {self.values}"


ROW = {"prompt": "q", "truth": "r", "id": 7}


def test_strings_are_texts_and_mappings_are_read_as_lines_of_json_are() -> None:
    prompt = Prompt(text="c")
    found = list(read_documents(Given("a", {"text": "b", "url": "x"}, prompt, ROW), "all"))
    assert found == [Prompt(text="a"), Prompt(text="b"), prompt, Prompt(prompt="q", truth="r")]
    assert found[1].at == f"{__name__}.Given.documents, document 1"
    assert found[2] is prompt


@pytest.mark.parametrize("mixed", [False, True])
def test_they_are_tokenised_like_prompts(mixed: bool) -> None:
    source: Source = Given("ab", {"text": "c"})
    source = Mixture([Share(source)]) if mixed else source
    store = prepare(source, Byte(), "all", max_len=8, progress=False)
    assert (store.document_count, store.token_count) == (2, 3)
    assert not store.prompts


def test_what_is_no_document_is_told_with_its_number() -> None:
    for wrong, said in ((3, "a string or a mapping, not int"), ({"body": "x"}, "'body'")):
        with pytest.raises(DataError, match=said) as caught:
            list(read_documents(Given("a", wrong), "all"))
        assert caught.value.at == f"{__name__}.Given.documents, document 1"
    with pytest.raises(DataError, match="here: turn 1 is the assistant's"):
        as_document({"messages": [{"role": "assistant", "content": "b"}]}, "here")


def test_who_reads_only_the_beginning_leaves_without_an_error() -> None:
    class Broken(Given):
        def documents(self, split: str) -> Iterator[Any]:
            yield "a"
            raise KeyError("x")

    reading = read_documents(Broken(), "all")
    assert next(reading).text == "a"
    reading.close()
    with pytest.raises(PluginError, match=r"Broken\.documents fails: KeyError: 'x'"):
        list(read_documents(Broken(), "all"))
