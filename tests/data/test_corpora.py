from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest

from lmkit.config import build
from lmkit.data import HubDataset, PythonStdlib
from lmkit.data.holdout import is_held_out
from lmkit.errors import DataError


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


class TestHubDataset:
    def hub(self, tmp_path: Path, files: dict[str, str]) -> tuple[SimpleNamespace, list[dict]]:
        """The package, with a hub that is a local folder."""
        calls: list[dict] = []

        def snapshot_download(repo: str, *, local_dir: Path, **options: object) -> None:
            calls.append({"repo": repo, **options})
            for name, content in files.items():
                (local_dir / name).parent.mkdir(parents=True, exist_ok=True)
                (local_dir / name).write_text(content)
            (local_dir / ".cache").mkdir()

        return SimpleNamespace(snapshot_download=snapshot_download), calls

    def test_files_are_downloaded_once_when_they_are_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files = {"data/b.jsonl": '{"body": "b"}\n', "data/a.jsonl": '{"body": "a"}\n'}
        hub, calls = self.hub(tmp_path, files)
        monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
        spec = {"class": "lmkit.data.corpora.HubDataset", "repo": "who/what"}
        spec |= {"files": "data/*.jsonl", "text": "body", "holdout": 0, "revision": "v1"}
        source = build(spec)
        assert not source.available()
        assert source.describe() == "HubDataset who/what: not on this disk yet"
        assert not calls
        assert [document.text for document in source.documents("train")] == ["a", "b"]
        again = build(spec)
        assert again.available()
        assert again.describe() == "HubDataset who/what, JsonLines: 2 files, 0.0 MB, 0% held out"
        assert again.fingerprint() == source.fingerprint()
        wanted = {"repo_type": "dataset", "revision": "v1", "allow_patterns": ["data/*.jsonl"]}
        assert calls == [{"repo": "who/what", **wanted}]

    def test_without_a_network_one_line_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object, **__: object) -> None:
            raise ConnectionError("Name or service not known\nand a second line")

        hub = SimpleNamespace(snapshot_download=fail)
        monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
        with pytest.raises(DataError) as caught:
            list(HubDataset("who/what", "*.parquet").documents("train"))
        line = str(caught.value)
        assert line.startswith("who/what: cannot be downloaded: Name or service not known; check")
        assert "\n" not in line

    def test_without_the_package_the_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        with pytest.raises(DataError, match=r"pip install 'lmkit\[data\]'"):
            HubDataset("who/what", "*.parquet").fingerprint()

    def test_files_of_no_known_kind(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        hub, _ = self.hub(tmp_path, {"data.csv": "a,b"})
        monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
        with pytest.raises(DataError, match=r"no Parquet, JSON lines or text file matches \*.csv"):
            HubDataset("who/what", "*.csv").fingerprint()
