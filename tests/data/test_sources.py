from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from lmkit.config import build
from lmkit.data import InMemory, JsonLines, Parquet, TextFiles
from lmkit.errors import DataError
from lmkit.prompts import Message, Part, Prompt


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def texts(source: object, split: str = "all") -> list[str]:
    return [document.text for document in source.documents(split)]


class TestTextFiles:
    def test_a_folder_gives_its_files_sorted_without_hidden_and_blank_ones(
        self, tmp_path: Path
    ) -> None:
        write(tmp_path / "b.txt", "two\r\n")
        write(tmp_path / "a" / "c.txt", "one")
        write(tmp_path / ".hidden" / "x.txt", "no")
        write(tmp_path / "empty.txt", "")
        assert texts(TextFiles(str(tmp_path))) == ["one", "two\r\n"]

    def test_globs_and_lists(self, tmp_path: Path) -> None:
        for name in ("a.txt", "b.md", "deep/c.txt"):
            write(tmp_path / name, name)
        assert texts(TextFiles(f"{tmp_path}/**/*.txt")) == ["a.txt", "deep/c.txt"]
        both = TextFiles([f"{tmp_path}/b.md", f"{tmp_path}/*"])
        assert texts(both) == ["b.md", "a.txt"]

    def test_beside_the_yaml_comes_before_the_current_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(tmp_path / "yaml" / "x.txt", "beside")
        write(tmp_path / "here" / "x.txt", "here")
        write(tmp_path / "here" / "y.txt", "only here")
        monkeypatch.chdir(tmp_path / "here")
        spec = {"class": "lmkit.data.sources.TextFiles", "path": "x.txt"}
        folder = str(tmp_path / "yaml")
        assert texts(build(spec, folder=folder)) == ["beside"]
        assert texts(build({**spec, "path": "y.txt"}, folder=folder)) == ["only here"]
        assert texts(build(spec)) == ["here"]

    def test_a_single_file_is_divided(self, tmp_path: Path) -> None:
        source = TextFiles(str(write(tmp_path / "x.txt", "abcdefghij")), holdout=0.2)
        assert texts(source, "train") == ["abcdefgh"]
        assert texts(source, "validation") == ["ij"]

    def test_paragraphs_are_documents_if_asked_for(self, tmp_path: Path) -> None:
        path = write(tmp_path / "x.txt", "\ufeffa\nb\n\n \nc\n")
        found = list(TextFiles(str(path), per_file=False).documents("all"))
        assert [(document.text, document.at) for document in found] == [
            ("a\nb\n", f"{path}:1"),
            ("c\n", f"{path}:5"),
        ]

    def test_encoding(self, tmp_path: Path) -> None:
        path = write(tmp_path / "x.txt", "Grüße".encode("latin-1"))
        assert texts(TextFiles(str(path), encoding="latin-1")) == ["Grüße"]
        for per_file in (True, False):
            with pytest.raises(DataError, match=r"x\.txt: not utf-8 text"):
                texts(TextFiles(str(path), per_file=per_file))

    @pytest.mark.parametrize(
        ("content", "message"),
        [(b"", "x.txt: the file is empty"), (b"ab\0c", "x.txt: a binary file .a NUL at 2")],
    )
    def test_what_is_no_text_is_named(self, tmp_path: Path, content: bytes, message: str) -> None:
        path = write(tmp_path / "x.txt", content)
        with pytest.raises(DataError, match=message):
            texts(TextFiles(str(path)))

    def test_a_missing_file_says_where_it_was_looked_for(self, tmp_path: Path) -> None:
        source = TextFiles("nowhere.txt", folder=str(tmp_path))
        assert not source.available()
        with pytest.raises(DataError, match=f"nowhere.txt: no such file.*{tmp_path}"):
            texts(source)
        with pytest.raises(DataError, match="no file matches"):
            texts(TextFiles("*.nothing"))

    def test_the_fingerprint_is_of_content_and_settings(self, tmp_path: Path) -> None:
        first = write(tmp_path / "one" / "x.txt", "text")
        copy = write(tmp_path / "two" / "x.txt", "text")
        print_of = TextFiles(str(first)).fingerprint()
        assert TextFiles(str(copy)).fingerprint() == print_of
        assert TextFiles(str(first), holdout=0.1).fingerprint() != print_of
        assert TextFiles(str(first), per_file=False).fingerprint() != print_of
        write(copy, "Text")
        assert TextFiles(str(copy)).fingerprint() != print_of

    def test_description(self, tmp_path: Path) -> None:
        write(tmp_path / "x.txt", "a" * 1_500_000)
        assert TextFiles(str(tmp_path)).describe() == "TextFiles: x.txt, 1.5 MB, 5% held out"


class TestJsonLines:
    def rows(self, path: Path, **columns: str) -> list[Prompt]:
        return list(JsonLines(str(path), **columns).documents("all"))

    def test_the_shapes_are_recognised_by_their_names(self, tmp_path: Path) -> None:
        path = write(
            tmp_path / "x.jsonl",
            '\ufeff{"text": "a", "id": 1}\n\n'
            '{"prompt": "q", "truth": "r"}\n'
            '{"messages": [{"role": "user", "content": "hi"}]}\n',
        )
        text, asked, talk = self.rows(path)
        assert text == Prompt(text="a")
        assert asked == Prompt(prompt="q", truth="r")
        assert talk == Prompt(messages=(Message("user", "hi"),))
        assert asked.at == f"{path}:3"

    def test_columns_of_other_names(self, tmp_path: Path) -> None:
        path = write(tmp_path / "x.jsonl", '{"question": "q", "answer": "r", "text": "no"}\n')
        assert self.rows(path, prompt="question", truth="answer") == [Prompt(prompt="q", truth="r")]

    def test_preferences_and_messages_in_parts(self, tmp_path: Path) -> None:
        parts = [{"type": "python", "text": "1+1"}, {"type": "python_output", "text": "2"}]
        asked = {"role": "user", "content": "q"}
        lines = [
            {"prompt": "q", "chosen": "a", "rejected": "b"},
            {"messages": [asked], "chosen": "a", "rejected": "b"},
            {"messages": [asked, {"role": "assistant", "content": parts}]},
        ]
        path = write(tmp_path / "x.jsonl", "\n".join(map(json.dumps, lines)))
        plain, talk, tool = self.rows(path)
        assert plain == Prompt(prompt="q", chosen="a", rejected="b")
        assert talk.pair[1].messages == (Message("user", "q"), Message("assistant", "b"))
        assert tool.messages[1].parts == (Part("python", "1+1"), Part("python_output", "2"))
        other = write(tmp_path / "y.jsonl", '{"q": "q", "yes": "a", "no": "b"}\n')
        assert self.rows(other, prompt="q", chosen="yes", rejected="no") == [plain]
        with pytest.raises(DataError, match="y.jsonl:1: a preference lacks 'rejected'"):
            self.rows(other, prompt="q", chosen="yes")

    def test_answers_to_the_same_question_are_on_the_same_side(self, tmp_path: Path) -> None:
        lines = [
            json.dumps({"prompt": f"q{i % 50}", "chosen": f"{i}", "rejected": "x"})
            for i in range(200)
        ]
        source = JsonLines(str(write(tmp_path / "x.jsonl", "\n".join(lines))), holdout=0.3)
        sides = [{p.prompt for p in source.documents(split)} for split in ("train", "validation")]
        assert all(sides)
        assert not sides[0] & sides[1]

    def test_the_columns_of_preferences_leave_other_fingerprints_alone(
        self, tmp_path: Path
    ) -> None:
        path = str(write(tmp_path / "x.jsonl", '{"text": "a"}\n'))
        columns = ("text", "prompt", "truth", "messages")
        assert JsonLines(path).settings() == dict.fromkeys(columns)
        named = JsonLines(path, prompt="q", chosen="a", rejected="b")
        assert named.settings()["chosen"] == "a"
        assert len({named.fingerprint(), JsonLines(path, prompt="q").fingerprint()}) == 2

    def test_packed_files(self, tmp_path: Path) -> None:
        zstandard = pytest.importorskip("zstandard")
        lines = b'{"text": "a"}\n' * 1000
        for suffix, compress in {"gz": gzip.compress, "zst": zstandard.compress}.items():
            packed = compress(lines) + compress(b'{"text": "b"}')  # written in two goes
            found = self.rows(write(tmp_path / f"x.jsonl.{suffix}", packed))
            assert found == [Prompt(text="a")] * 1000 + [Prompt(text="b")]
            for damage in (packed[:-3], packed[:5], packed[: len(packed) // 2], b"no" + packed):
                damaged = write(tmp_path / f"damaged.jsonl.{suffix}", damage)
                with pytest.raises(DataError, match=f"damaged.jsonl.{suffix}: the compressed file"):
                    self.rows(damaged)

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("{'text': 1}", "x.jsonl:2: not JSON"),
            ("[" * 100_000, "x.jsonl:2: not JSON"),
            ("[1]", "x.jsonl:2: a JSON list, not an object"),
            ('{"text": 5}', "x.jsonl:2: 'text' is int, not a string"),
            ('{"messages": []}', "x.jsonl:2: 'messages' must be a list"),
            ('{"messages": [{"content": "x"}]}', "x.jsonl:2: a message has exactly 'role'"),
            ('{"question": "q"}', "x.jsonl:2: no column is a prompt: 'question'; say which"),
        ],
    )
    def test_a_bad_line_is_named(self, tmp_path: Path, line: str, message: str) -> None:
        path = write(tmp_path / "x.jsonl", f'{{"text": "fine"}}\n{line}\n')
        with pytest.raises(DataError, match=message):
            self.rows(path)

    def test_a_missing_column_is_named_with_its_neighbour(self, tmp_path: Path) -> None:
        path = write(tmp_path / "x.jsonl", '{"question": "q", "answer": "r"}\n')
        with pytest.raises(DataError, match=r"no column 'qestion'; did you mean 'question'\?"):
            self.rows(path, prompt="qestion", truth="answer")

    def test_equal_rows_are_on_the_same_side(self, tmp_path: Path) -> None:
        lines = [json.dumps({"text": f"text {number % 50}"}) for number in range(500)]
        source = JsonLines(str(write(tmp_path / "x.jsonl", "\n".join(lines))), holdout=0.2)
        train, validation = set(texts(source, "train")), set(texts(source, "validation"))
        assert validation
        assert not train & validation


class TestParquet:
    def table(self, path: Path, columns: dict[str, list]) -> str:
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.table(columns), path, row_group_size=2)
        return str(path)

    def test_rows_in_order_with_their_places(self, tmp_path: Path) -> None:
        path = self.table(tmp_path / "x.parquet", {"body": ["a", "b", "c"], "id": [1, 2, 3]})
        found = list(Parquet(path, text="body").documents("all"))
        assert [document.text for document in found] == ["a", "b", "c"]
        assert found[2].at == f"{path}: row 3"

    def test_messages(self, tmp_path: Path) -> None:
        talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
        path = self.table(tmp_path / "x.parquet", {"messages": [talk]})
        (document,) = Parquet(path).documents("all")
        assert document.messages == (Message("user", "hi"), Message("assistant", "ho"))
        parts = [{"type": "text", "text": "so "}, {"type": "python", "text": "1+1"}]
        asked = [{"type": "text", "text": "q"}]  # a column has one type
        talk = [{"role": "user", "content": asked}, {"role": "assistant", "content": parts}]
        path = self.table(tmp_path / "y.parquet", {"messages": [talk]})
        (document,) = Parquet(path).documents("all")
        assert document.messages[1].parts == (Part("text", "so "), Part("python", "1+1"))

    def test_errors_name_the_file_and_the_column(self, tmp_path: Path) -> None:
        path = self.table(tmp_path / "x.parquet", {"text": ["a", None]})
        with pytest.raises(DataError, match=r"x.parquet: row 1: there is no column 'txt'; did you"):
            list(Parquet(path, text="txt").documents("all"))
        with pytest.raises(DataError, match=r"x.parquet: row 2: 'text' is missing"):
            list(Parquet(path).documents("all"))
        broken = write(tmp_path / "broken.parquet", "not at all")
        with pytest.raises(DataError, match=r"broken.parquet: not a readable Parquet file"):
            list(Parquet(str(broken)).documents("all"))

    def test_without_the_package_the_extra_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
        path = write(tmp_path / "x.parquet", "any")
        with pytest.raises(DataError, match=r"pip install 'lmkit\[data\]'"):
            list(Parquet(str(path)).documents("all"))


class TestInMemory:
    def test_strings_are_texts_and_mappings_are_prompts(self) -> None:
        given = ["a", {"prompt": "q", "truth": "r"}, Prompt(text="b")]
        found = list(InMemory(given).documents("all"))
        assert found == [Prompt(text="a"), Prompt(prompt="q", truth="r"), Prompt(text="b")]
        assert found[1].at == "prompts[1]"

    def test_the_fingerprint_tells_shapes_apart(self) -> None:
        prints = {
            InMemory([value]).fingerprint()
            for value in (
                "a",
                "b",
                {"prompt": "a"},
                {"prompt": "a", "truth": ""},
                {"prompt": "a", "chosen": "b", "rejected": "c"},
                {"prompt": "a", "chosen": "c", "rejected": "b"},
                {"messages": [{"role": "user", "content": "a"}]},
                {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
                {"messages": [{"role": "user", "content": [{"type": "python", "text": "a"}]}]},
            )
        }
        assert len(prints) == 9

    def test_an_empty_list_is_an_error(self) -> None:
        with pytest.raises(DataError, match="the list of prompts is empty"):
            list(InMemory([]).documents("train"))

    def test_it_can_stand_in_a_yaml(self) -> None:
        source = build(
            {"class": "lmkit.data.sources.InMemory", "prompts": ["a", {"text": "b"}], "holdout": 0}
        )
        assert texts(source, "train") == ["a", "b"]


LINES = """\
{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
not JSON
{"messages": [{"role": "assistant", "content": "b"}]}
[1]
{"messages": [{"role": "user", "content": "c"}, {"role": "assistant", "content": ""}]}
"""


def test_lines_that_cannot_be_used_are_left_out_and_counted_where_that_is_wished(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "c.jsonl"
    file.write_text(LINES)
    found = list(JsonLines(str(file), on_error="skip").documents("all"))
    assert [prompt.at for prompt in found] == [f"{file}:1"]
    assert f"4 rows left out, the first: {file}:2: not JSON" in caplog.text
    strict = JsonLines(str(file))
    with pytest.raises(DataError, match=r"c.jsonl:2: not JSON"):
        list(strict.documents("all"))
    assert strict.fingerprint() != JsonLines(str(file), on_error="skip").fingerprint()


def test_a_conversation_in_the_wrong_order_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "c.jsonl"
    file.write_text(LINES.splitlines()[2])
    with pytest.raises(DataError, match=r"c.jsonl:1: "):
        list(JsonLines(str(file)).documents("all"))
