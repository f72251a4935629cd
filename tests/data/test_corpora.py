from __future__ import annotations

import hashlib
import io
import shutil
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lmkit.config import build
from lmkit.data import HubDataset, JsonLines, PythonStdlib
from lmkit.data.corpora import Corpus, place_of
from lmkit.data.holdout import is_held_out
from lmkit.data.hub import HubRepo
from lmkit.data.known import KNOWN
from lmkit.data.patience import Patience
from lmkit.errors import ConfigError, DataError


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small standard library."""
    root = tmp_path / "lib"
    files = {f"m{number}.py": f"x = {number}\n".encode() for number in range(200)}
    files |= {"deep/a.py": b"a\r\n", "empty.py": b"", "latin.py": b"\xe4", "notes.txt": b"no"}
    files |= {"site-packages/installed.py": b"no"}
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(root))
    return root


class TestPythonStdlib:
    def test_its_own_modules_sorted_and_split_by_path(self, library: Path) -> None:
        source = PythonStdlib(holdout=0.1)
        names = sorted(["deep/a.py", *(f"m{number}.py" for number in range(200))])
        for split, wanted in {
            "all": names,
            "train": [name for name in names if not is_held_out(name, 0.1)],
            "validation": [name for name in names if is_held_out(name, 0.1)],
        }.items():
            found = list(source.documents(split))
            assert [document.at for document in found] == [str(library / name) for name in wanted]
        assert next(source.documents("all")).text == "a\r\n"

    def test_it_tells_its_version_and_what_it_left_out(self, library: Path) -> None:
        described = PythonStdlib().describe()
        version = ".".join(map(str, sys.version_info[:3]))
        assert described.startswith(f"PythonStdlib: Python {version}, 201 files, 0.0 MB, 5% held")
        assert described.endswith("1 not UTF-8 and skipped")

    def test_a_changed_file_changes_the_fingerprint(self, library: Path) -> None:
        before = PythonStdlib().fingerprint()
        assert PythonStdlib().fingerprint() == before
        (library / "m1.py").write_text("x = 2\n")
        assert PythonStdlib().fingerprint() != before

    def test_a_python_without_source_is_an_error(self, library: Path) -> None:
        shutil.rmtree(library)
        assert not PythonStdlib().available()
        with pytest.raises(DataError, match="has no source of its standard library"):
            PythonStdlib().fingerprint()

    def test_this_python_has_megabytes_of_it(self) -> None:
        source = PythonStdlib()
        assert source.available()
        assert source.size("all") > 5e6
        assert "json/decoder.py" in [file.name for file in source._survey.files]


LINES = {
    "data/b.jsonl": b'{"body": "b"}\n',
    "data/a.jsonl": b'{"body": "a"}\n',
    "README.md": b"no data",
    "notes.json": b"[]",
}
ABOUT = "/api/datasets/who/what/revision/main"


@pytest.fixture
def hub(web: Any) -> Any:
    """The server, as the hub with one data set, asked by the real client."""
    pytest.importorskip("huggingface_hub")
    web.hub("who/what", LINES)
    return web


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def dataset(files: Any = "data/*.jsonl", **options: Any) -> HubDataset:
    options = {"text": "body", "holdout": 0, **options}
    return HubDataset("who/what", files, **options)


def texts(source: Any, split: Any = "train") -> list[str]:
    return [document.text for document in source.documents(split)]


def _parquet(columns: dict) -> bytes:
    import pyarrow.parquet

    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


class TestHubDataset:
    def test_files_are_fetched_when_they_are_read(self, hub: Any, cache: Path) -> None:
        spec = {"class": "lmkit.data.corpora.HubDataset", "repo": "who/what"}
        spec |= {"files": "data/*.jsonl", "text": "body", "holdout": 0}
        source = build(spec)
        assert not source.available()
        where = "HubDataset who/what: who/what of the Hugging Face hub, "
        assert source.describe() == where + "not on this disk yet"
        assert not hub.asked
        assert next(source.documents("train")).text == "a"
        assert sum("/resolve/" in path for path in hub.paths()) == 1
        assert source.describe() == where + "2 files, 0.0 MB, 1 on this disk"
        assert texts(source) == ["a", "b"]
        asked = len(hub.asked)
        again = build(spec)
        assert again.available()
        assert again.describe() == where + "2 files, 0.0 MB"
        assert texts(again) == ["a", "b"]
        assert len(hub.asked) == asked
        lies = cache / "hub" / "who--what" / "main" / "data" / "a.jsonl"
        assert lies.read_bytes() == LINES["data/a.jsonl"]

    def test_the_fingerprint_is_of_the_content_and_needs_no_download(
        self, hub: Any, tmp_path: Path
    ) -> None:
        before = dataset().fingerprint()
        assert hub.paths() == [ABOUT]
        texts(dataset())
        assert dataset().fingerprint() == before
        for name in ("a.jsonl", "b.jsonl"):
            (tmp_path / name).write_bytes(LINES[f"data/{name}"])
        local = [str(tmp_path / name) for name in ("a.jsonl", "b.jsonl")]
        assert JsonLines(local, text="body", holdout=0).fingerprint() == before
        assert dataset(holdout=0.1).fingerprint() != before
        assert dataset("data/a.jsonl").fingerprint() != before

    def test_a_file_that_the_hub_has_no_hash_of_is_read_for_it(self, hub: Any) -> None:
        repo = HubRepo("who/what")
        assert repo.digest("notes.json") == hashlib.sha256(b"[]").hexdigest()

    def test_all_files_are_of_the_commit_that_was_seen_first(self, hub: Any) -> None:
        dataset().fingerprint()
        changed = {name: content.upper() for name, content in LINES.items()}
        hub.hub("who/what", changed, commit="beef")
        assert texts(dataset()) == ["a", "b"]
        assert [path for path in hub.paths() if "beef" in path] == []

    def test_a_token_goes_to_the_hub_and_no_further(
        self, hub: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        texts(dataset("data/a.jsonl"))
        sent = [(asked.path[:5], asked.headers.get("authorization")) for asked in hub.asked]
        assert sent == [
            ("/api/", "Bearer hf_secret"), ("/data", "Bearer hf_secret"), ("/cdn/", None),
        ]  # fmt: skip

    def test_another_file_than_the_hub_told_of_is_refused(self, hub: Any) -> None:
        for path in [path for path in hub.files if path.startswith("/cdn/")]:
            hub.files[path] = hub.files[path].upper()
        with pytest.raises(DataError, match="resolve/c0ffee/data/a.jsonl: .* sha256"):
            texts(dataset())

    def test_files_of_their_own_can_be_held_out(self, hub: Any) -> None:
        source = dataset("data/a.jsonl", validation="data/b.jsonl")
        assert [texts(source, split) for split in ("train", "validation", "all")] == [
            ["a"], ["b"], ["a", "b"],
        ]  # fmt: skip
        assert source.fingerprint() != dataset("data/a.jsonl").fingerprint()

    def test_busy_broken_and_gone(self, hub: Any) -> None:
        Answer = type(hub).__init__.__globals__["Answer"]
        waits: list[float] = []
        repo = HubRepo("who/what", patience=Patience(pause=waits.append))
        hub.answers[ABOUT] += [Answer(503), Answer(429, {"Retry-After": "7"})]
        content = hashlib.sha256(LINES["data/a.jsonl"]).hexdigest()
        hub.answers[f"/cdn/{content}"] += [Answer(cut=3)]
        assert repo.get("data/a.jsonl").read_bytes() == LINES["data/a.jsonl"]
        assert waits == [1.0, 7.0, 1.0]

    @pytest.mark.parametrize(
        ("repo", "files", "message"),
        [
            ("who/else", "*.jsonl", "who/else: the hub has no such data set at 'main', or you may"),
            ("who/what", "*.csv", "who/what: no file matches \\*.csv; look at http.*/tree/main"),
            ("who/what", "data/c.jsonl", "has no file 'data/c.jsonl' at c0ffee; did you mean"),
            ("who/what", "README*", "no Parquet, JSON lines or text file: README.md; look"),
            ("a/b/c", "*.jsonl", "a/b/c: the hub cannot be asked: Repo id must be in the form"),
        ],
    )
    def test_what_is_not_there(self, hub: Any, repo: str, files: str, message: str) -> None:
        with pytest.raises(DataError, match=message) as caught:
            texts(HubDataset(repo, files))
        assert "\n" not in str(caught.value)

    def test_an_answer_that_is_no_listing(self, hub: Any) -> None:
        hub.files[ABOUT] = b"<html>log in"
        with pytest.raises(DataError, match="who/what: the hub cannot be asked"):
            dataset().fingerprint()
        hub.hub("who/what", {"../../escaped": b"x"})
        with pytest.raises(DataError, match="lists a file outside of it: '../../escaped'"):
            dataset().fingerprint()

    def test_nobody_answers(self, hub: Any, cache: Path) -> None:
        hub.close()
        waits: list[float] = []
        repo = HubRepo("who/what", patience=Patience(pause=waits.append))
        with pytest.raises(DataError) as caught:
            repo.get("data/a.jsonl")
        path = f"{cache}/hub/who--what/main/data/a.jsonl"
        assert str(caught.value) == (
            "who/what: Connection refused, the last of 5 tries; download it by hand: "
            f"{hub.url}/datasets/who/what/resolve/main/data/a.jsonl -> {path}"
        )
        assert waits == [1.0, 2.0, 4.0, 8.0]

    def test_offline_it_says_what_to_put_where(self, hub: Any, offline: Any, cache: Path) -> None:
        offline()
        source = dataset()
        assert not source.available()
        with pytest.raises(DataError) as caught:
            texts(source)
        folder = cache / "hub" / "who--what" / "main"
        url = f"{hub.url}/datasets/who/what/resolve/main/data/*.jsonl"
        assert str(caught.value) == (
            f"{url}: not on this disk, and HF_HUB_OFFLINE is set; "
            f"download it by hand: {url} -> {folder}"
        )
        with pytest.raises(DataError, match=f"by hand: .*/a.jsonl -> {folder}/data/a.jsonl"):
            texts(dataset("data/a.jsonl"))
        (folder / "data").mkdir(parents=True)
        (folder / "data" / "a.jsonl").write_bytes(LINES["data/a.jsonl"])
        assert source.available()
        assert texts(source) == ["a"]
        assert texts(dataset("data/a.jsonl")) == ["a"]
        assert not hub.asked

    def test_offline_what_was_begun_is_not_taken_for_the_whole(
        self, hub: Any, offline: Any
    ) -> None:
        next(dataset().documents("train"))
        offline()
        with pytest.raises(DataError, match=r"HF_HUB_OFFLINE is set; .*/b.jsonl -> .*/b.jsonl"):
            texts(dataset())

    def test_a_truncated_parquet_file_put_there_by_hand(
        self, hub: Any, offline: Any, cache: Path
    ) -> None:
        pytest.importorskip("pyarrow")
        whole = _parquet({"body": ["a"]})
        hub.hub("who/what", {"a.parquet": whole})
        path = cache / "hub" / "who--what" / "main" / "a.parquet"
        path.parent.mkdir(parents=True)
        path.write_bytes(whole[:-10])
        with pytest.raises(DataError, match=r"a.parquet: not a readable Parquet file"):
            texts(dataset("a.parquet"))
        path.unlink()
        assert texts(dataset("a.parquet")) == ["a"]
        path.write_bytes(whole[:-10])
        with pytest.raises(DataError, match=r"a.parquet: has .* bytes, the published file .*"):
            texts(dataset("a.parquet"))

    def test_without_the_package_the_extra_is_named(
        self, web: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        with pytest.raises(DataError, match=r"pip install 'lmkit\[data\]'"):
            dataset("*.parquet").fingerprint()

    def test_shuffled_files_need_files_to_hold_out(self) -> None:
        with pytest.raises(ConfigError, match="shuffled needs validation"):
            dataset(shuffled=True)
        with pytest.raises(ConfigError, match="no file is named"):
            dataset([])


class TestCorpus:
    def test_a_text_over_https(
        self, web: Any, monkeypatch: pytest.MonkeyPatch, cache: Path
    ) -> None:
        text = b"First Citizen:\n" * 100
        digest = hashlib.sha256(text).hexdigest()
        about = replace(KNOWN["shakespeare"], address=f"{web.url}/data/")
        published = {"input.txt": about.published["input.txt"]._replace(size=len(text))}
        published["input.txt"] = published["input.txt"]._replace(sha256=digest)
        monkeypatch.setitem(KNOWN, "shakespeare", replace(about, published=published))
        web.files["/data/input.txt"] = text
        source = build({"class": "lmkit.data.corpora.Corpus", "name": "shakespeare"})
        fingerprint = source.fingerprint()
        assert source.size("train") == 1425
        assert not web.asked
        assert texts(source)[0] + texts(source, "validation")[0] == text.decode()
        assert (cache / "downloads" / "shakespeare" / "input.txt").read_bytes() == text
        assert source.fingerprint() == fingerprint
        assert source.describe() == (
            f"Corpus shakespeare: {web.url}/data/, 1 file, 0.0 MB, licence public domain"
        )
        assert web.paths() == ["/data/input.txt"]

    def test_what_the_publisher_holds_out_is_held_out(self, web: Any) -> None:
        pytest.importorskip("huggingface_hub")
        pytest.importorskip("pyarrow")
        about = KNOWN["smol_smoltalk"]
        files = {}
        for part, names in about.parts.items():
            for name in names:
                turns = [{"content": f"{part} {name}", "role": "user"}]
                turns += [{"content": "yes", "role": "assistant"}]
                files[name] = _parquet({"messages": [turns], "source": ["x"]})
        web.hub(about.repo, files)
        source = Corpus("smol_smoltalk", files=2)
        said = [prompt.messages[0].text for prompt in source.documents("train")]
        assert said == [f"train {name}" for name in about.parts["train"][:2]]
        held_out = [prompt.messages[0].text for prompt in source.documents("validation")]
        assert held_out == [f"validation {name}" for name in about.parts["validation"]]
        assert source.describe().endswith(", licence Apache 2.0")
        shared = Corpus("smol_smoltalk", files="*-00003-of-*", holdout=0)
        assert len(list(shared.documents("train"))) == 1
        assert not list(shared.documents("validation"))

    def test_before_it_is_here_it_says_where_from_how_much_and_whose(self, web: Any) -> None:
        source = Corpus("climbmix", files=170)
        assert source.describe() == (
            "Corpus climbmix: karpathy/climbmix-400b-shuffle of the Hugging Face hub, 171 files, "
            "about 15.7 GB, none on this disk, licence CC BY-NC 4.0"
        )
        assert not source.available()
        assert not web.asked

    def test_a_part_for_a_task(self, web: Any) -> None:
        pytest.importorskip("huggingface_hub")
        name = KNOWN["humaneval"].parts["test"][0]
        web.hub("openai/openai_humaneval", {name: b"rows"})
        assert place_of("humaneval").get(name).read_bytes() == b"rows"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"name": "tinystory"}, "there is no data set 'tinystory'; did you mean 'tinystories'"),
            ({"name": "mmlu"}, "mmlu has no text to train on; it is asked by `lmkit eval`"),
            ({"name": "climbmix", "files": 0}, "files is 0, there are 6,542"),
            ({"name": "climbmix", "files": "x*"}, r"no file matches x\*; the first is shard_00000"),
        ],
    )
    def test_what_it_does_not_know(self, arguments: dict, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            Corpus(**arguments)


@pytest.mark.parametrize("name", KNOWN)
def test_the_table_is_whole(name: str) -> None:
    about = KNOWN[name]
    assert bool(about.repo) != bool(about.address)
    assert about.licence
    assert about.size > 0
    files = [file for part in about.parts.values() for file in part]
    assert len(set(files)) == len(files)
    assert set(about.published) <= set(files)
    if about.columns is not None:
        assert "train" in about.parts
        assert Corpus(name).describe()
    assert place_of(name).home
