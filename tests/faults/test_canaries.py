"""Canaries: files made to run something when they are read. None of them ever does.

What each would run writes the file `canary`, so whether it ran is not a matter of opinion.
"""

from __future__ import annotations

import ast
import json
import os
import pickle
import py_compile
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import lmkit
import lmkit_models
from lmkit.checkpoints.manifest import Manifest
from lmkit.text import Byte
from lmkit.train.loading import save_for_inference
from lmkit_models.mlp import MLP
from tests.cli.conftest import Project

SOURCES = [
    path
    for package in (lmkit, lmkit_models)
    for path in Path(str(package.__file__)).parent.rglob("*.py")
]
# modules that read or write pickles, or run what they read
FORBIDDEN = {
    "cloudpickle", "dill", "imp", "joblib", "jsonpickle", "marshal", "multiprocessing", "pickle",
    "shelve", "_pickle",
}  # fmt: skip
# attributes that do so in packages that do other things too
CALLS = {
    "torch.load", "torch.save", "torch.jit.load", "torch.hub.load", "torch.package", "np.load",
    "np.save", "np.savez", "numpy.load", "yaml.load", "yaml.full_load", "yaml.unsafe_load",
    "yaml.Loader", "yaml.UnsafeLoader", "yaml.FullLoader", "tarfile.open", "zipfile.ZipFile",
}  # fmt: skip
OBJECTS = {
    "all_gather_object", "broadcast_object_list", "gather_object", "scatter_object_list",
    "send_object_list", "recv_object_list", "read_pickle", "to_pickle", "allow_pickle",
    "DataLoader",
}  # fmt: skip


def test_no_source_reads_or_writes_a_pickle() -> None:
    assert len(SOURCES) > 200
    for path in SOURCES:
        look_for_pickles(path)


def look_for_pickles(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            named = {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            named = {(node.module or "").partition(".")[0]}
            named |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            named = {ast.unparse(node), node.attr} - FORBIDDEN
        elif isinstance(node, ast.keyword):
            named = {node.arg or ""}
        else:
            continue
        found = named & (FORBIDDEN | CALLS | OBJECTS)
        allowed = {"zipfile.ZipFile"} if path.name == "core_bundle.py" else set()
        assert not found - allowed, f"{path}:{node.lineno}"  # type: ignore[attr-defined]


class Bomb:
    """Pickled, it runs a command where it is read."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """The file that is never written."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "it was run"


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = MLP(tokenizer=Byte(), embedding_dim=2, window=2, nodes=4, layers=1, max_len=8)
    return save_for_inference(model, tmp_path_factory.mktemp("made") / "model", {"name": "x"})


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    """A checkpoint that its canaries are put into."""
    return Path(shutil.copytree(model_folder, tmp_path / "stranger"))


def sign(folder: Path) -> None:
    """Make the manifest fit, as a stranger would."""
    (folder / "manifest.json").unlink()
    Manifest.write(folder)


def put(folder: Path, name: str, content: Any) -> None:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def script(canary: Path) -> str:
    """Python that writes the canary."""
    return f"import pathlib\npathlib.Path({str(canary)!r}).write_text('ran')\n"


# --- pickles, and what looks like one -------------------------------------------------------------

PICKLES = [
    "model.safetensors", "model.pt", "pytorch_model.bin", "optimizer.pt", "state.json",
    "experiment.json", "tokenizer/tokenizer.json", "data.pkl",
]  # fmt: skip


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_is_never_opened(project: Project, folder: Path, canary: Path, name: str) -> None:
    put(folder, name, pickle.dumps(Bomb(f"touch {canary}")))
    sign(folder)
    outcome = project.lmkit("generate", folder, "-n", "1")
    read = ("model.safetensors", "experiment.json", "tokenizer/tokenizer.json")
    assert outcome.code == (3 if name in read else 0)


def test_neither_is_one_in_a_zip_as_torch_writes_it(
    project: Project, folder: Path, canary: Path
) -> None:
    with zipfile.ZipFile(folder / "model.safetensors", "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Bomb(f"touch {canary}")))
    sign(folder)
    assert project.lmkit("generate", folder).code == 3


def test_neither_is_one_that_a_run_is_given_for_data(project: Project, canary: Path) -> None:
    (project.folder / "text.txt").write_bytes(pickle.dumps(Bomb(f"touch {canary}")) * 50)
    assert project.train().code == 2


# --- tags of YAML ---------------------------------------------------------------------------------

TAGS = [
    "!!python/object/apply:os.system ['touch {}']",
    "!!python/object/new:os.system ['touch {}']",
    "!!python/object/apply:subprocess.check_output [[touch, {}]]",
    '!!python/object/apply:builtins.eval [\'open("{}", "w")\']',
    "!!python/object/new:type {{args: [x, [], {{}}], state: {{}}}}",
    "!!python/object:subprocess.Popen {{args: [touch, {}]}}",
    "!!python/name:os.system",
    "!!python/module:antigravity",
]


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_makes_no_object(project: Project, canary: Path, tag: str) -> None:
    value = tag.format(canary)
    project.rewrite("name: tiny", f"name: {value}")
    assert project.lmkit("check", project.yaml).code == 2
    assert project.lmkit("check", project.yaml, f"seed={value}").code == 2
    assert project.lmkit("eval", "nowhere", "--tasks", value).code == 2


# --- classes and modules that a checkpoint names --------------------------------------------------

CLASSES = [
    {"class": "os.system", "command": "touch {}"},
    {"class": "subprocess.Popen", "args": ["touch", "{}"]},
    {"class": "builtins.exec", "source": "open('{}', 'w')"},
    {"class": "pathlib.Path.touch", "self": "{}"},
    {"class": "importlib.import_module", "name": "stranger_module"},
    {"class": "runpy.run_path", "path_name": "{}.py"},
    {"class": "torch.load", "f": "{}.pt", "weights_only": False},
    {"class": "torch.hub.load", "repo_or_dir": ".", "model": "x", "source": "local"},
    {"class": "torch.fx.GraphModule", "root": {}, "graph": {}},
    {"class": "lmkit.data.store.StoreWriter", "folder": "{}", "tokenizer": {}, "prompts": False},
    {"class": "lmkit.train.lock.run_lock", "folder": "{}"},
    {"class": "numpy.memmap", "filename": "{}", "mode": "w+", "shape": 1},
]


def filled(value: Any, canary: Path) -> Any:
    if isinstance(value, dict):
        return {key: filled(item, canary) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, canary) for item in value]
    return value.replace("{}", str(canary)) if isinstance(value, str) else value


@pytest.mark.parametrize("place", ["model", "inside", "tokenizer"])
@pytest.mark.parametrize("spec", CLASSES, ids=lambda spec: spec["class"])
def test_a_class_that_is_no_models_part_is_not_called(
    project: Project, folder: Path, canary: Path, spec: dict[str, Any], place: str
) -> None:
    canary.with_suffix(".py").write_text(script(canary))
    canary.with_suffix(".pt").write_bytes(pickle.dumps(Bomb(f"touch {canary}")))
    evil = filled(spec, canary)
    if place == "tokenizer":
        settings = {key: value for key, value in evil.items() if key != "class"}
        about = {"class": evil["class"], "settings": settings, "fingerprint": ""}
        put(folder, "tokenizer/tokenizer.json", about)
    else:
        model = json.loads((folder / "experiment.json").read_text())["model"]
        put(
            folder, "experiment.json", {"model": evil if place == "model" else {**model, "x": evil}}
        )
    sign(folder)
    outcome = project.lmkit("generate", folder)
    assert outcome.code == 3, outcome.err
    assert f"it would call {spec['class']}" in outcome.error
    assert "--trust-code" in outcome.error


@pytest.mark.parametrize("name", ["antigravity", "this", "idlelib.idle", "pdb", "turtledemo.clock"])
@pytest.mark.parametrize("place", ["imports", "model"])
def test_no_module_of_pythons_own_is_imported(
    project: Project, folder: Path, canary: Path, name: str, place: str
) -> None:
    model = json.loads((folder / "experiment.json").read_text())["model"]
    named = {
        "imports": {"imports": [name], "model": model},
        "model": {"model": {"class": f"{name}.x"}},
    }
    put(folder, "experiment.json", named[place])
    sign(folder)
    before = set(sys.modules)
    outcome = project.lmkit("generate", folder)
    assert outcome.code == 3
    assert "is of Python's own library" in outcome.error
    assert not any(each.startswith(name) for each in set(sys.modules) - before)


def stranger_code(folder: Path, canary: Path, **entry: Any) -> None:
    """A checkpoint whose model is in a module of its own, which it says is the user's."""
    source = script(canary).encode()
    put(folder, "code/stranger_module.py", source)
    import hashlib

    about = {
        "module": "stranger_module",
        "root": str(folder / "code"),
        "file": "stranger_module.py",
        "sha256": hashlib.sha256(source).hexdigest(),
        **entry,
    }
    put(folder, "code/sources.json", {"sources": [about]})
    put(folder, "experiment.json", {"model": {"class": "stranger_module.Net"}})
    sign(folder)


ROOTS = ["code", "relative", "beside", "link", "below a link"]


@pytest.mark.parametrize("how", ROOTS)
def test_a_folder_that_only_the_checkpoint_names_is_no_place_for_code(
    project: Project, folder: Path, canary: Path, tmp_path: Path, how: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    away = tmp_path / "away"
    (away / "inner").mkdir(parents=True)
    for place in (away, away / "inner"):
        (place / "stranger_module.py").write_text(script(canary))
    os.symlink(away, folder / "linked")
    monkeypatch.chdir({"link": folder.parent / "elsewhere"}.get(how, tmp_path / "elsewhere"))
    os.symlink(away, "linked")
    root = {
        "code": folder / "code",
        "relative": os.path.relpath(folder / "code"),
        "beside": away,
        "link": Path.cwd() / "linked",
        "below a link": Path.cwd() / "linked" / "inner",
    }[how]
    stranger_code(folder, canary, root=str(root))
    outcome = project.lmkit("generate", folder)
    assert outcome.code == 3, outcome.err
    assert "needs the module stranger_module" in outcome.error


def test_the_current_folder_is_none_where_it_is_the_checkpoint(
    project: Project, folder: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (folder, folder / "code"):
        put(place, "stranger_module.py", script(canary).encode())
        put(place, "jinja2.py", script(canary).encode())
    stranger_code(folder, canary, root=str(folder))
    for here in (folder, folder / "code"):
        monkeypatch.chdir(here)
        assert project.lmkit("generate", folder).code == 3


@pytest.mark.parametrize(
    "module", ["json", "subprocess", "lmkit", "lmkit_models.mlp", "a b", "..x"]
)
def test_code_cannot_take_a_name_that_is_taken(
    project: Project, folder: Path, canary: Path, module: str
) -> None:
    stranger_code(folder, canary, module=module)
    for words in ([], ["--trust-code"]):
        outcome = project.lmkit("generate", folder, *words)
        assert outcome.code == 3
        assert "code/sources.json is damaged" in outcome.error


def test_trust_runs_what_it_says_and_nothing_beside_it(
    project: Project, folder: Path, canary: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not bytecode that lies beside the source, nor a module that is not listed."""
    code = folder / "code"
    put(folder, "experiment.json", json.loads((folder / "experiment.json").read_text()))
    source = b"import json\nfrom lmkit_models.mlp import MLP\nclass Net(MLP):\n    pass\n"
    stranger_code(folder, canary)
    put(code, "stranger_module.py", source)
    import hashlib

    digest = hashlib.sha256(source).hexdigest()
    about = {"module": "stranger_module", "root": "/x", "file": "stranger_module.py"}
    put(code, "sources.json", {"sources": [{**about, "sha256": digest}]})
    model = {"class": "stranger_module.Net", "embedding_dim": 2, "window": 2, "nodes": 4,
             "layers": 1, "max_len": 8}  # fmt: skip
    put(folder, "experiment.json", {"model": model})
    evil = code.parent.parent / "evil.py"
    evil.write_text(script(canary) + source.decode())
    cached = Path(py_compile.compile(str(evil), doraise=True))
    shutil.copytree(cached.parent, code / "__pycache__")
    real, stamp = code / "__pycache__" / cached.name, (code / "stranger_module.py").stat()
    content = bytearray(real.read_bytes())
    content[8:12] = int(stamp.st_mtime).to_bytes(4, "little")  # as if of this very source
    content[12:16] = stamp.st_size.to_bytes(4, "little")
    real.with_name(cached.name.replace("evil", "stranger_module")).write_bytes(content)
    for name in ("json.py", "jinja2.py", "hidden.py"):
        put(code, name, script(canary).encode())
    sign(folder)
    outcome = project.lmkit("generate", folder, "-n", "1", "--trust-code")
    assert outcome.code == 0, outcome.err
    assert f"run: {code / 'stranger_module.py'} (sha256 {digest})" in caplog.text
    assert "hidden.py" not in caplog.text
    sys.modules.pop("stranger_module", None)


# --- paths ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["model.safetensors", "experiment.json", "tokenizer/tokenizer.json"]
)
@pytest.mark.parametrize("how", ["link", "hard to see", "folder", "pipe"])
def test_a_file_of_a_checkpoint_is_a_file_in_it(
    project: Project, folder: Path, tmp_path: Path, name: str, how: str
) -> None:
    """Nothing is read through a link, and nothing waits at a pipe."""
    outside = tmp_path / "outside"
    (folder / name).rename(outside)
    if how == "link":
        (folder / name).symlink_to(outside)
    elif how == "hard to see":
        (folder / name).symlink_to(os.path.relpath(outside, (folder / name).parent))
    elif how == "folder":
        (folder / name).mkdir()
    else:
        os.mkfifo(folder / name)
    outcome = project.lmkit("generate", folder)
    assert outcome.code == 3, outcome.err


@pytest.mark.parametrize(
    "ranks", ["../secret", "/etc/passwd", "/dev/zero", "linked", "../../tiny.tiktoken", ""]
)
def test_a_tokenizer_names_no_file_outside(
    project: Project, folder: Path, tmp_path: Path, ranks: str
) -> None:
    (tmp_path / "secret").write_text("nobody's business")
    (folder / "tokenizer" / "linked").symlink_to(tmp_path / "secret")
    for settings in ({"ranks": ranks}, {"ranks": "x", "chat": ranks}):
        about = {"class": "lmkit.text.tokenizer.Tiktoken", "settings": settings, "fingerprint": ""}
        put(folder, "tokenizer/tokenizer.json", about)
        (folder / "tokenizer" / "linked").unlink(missing_ok=True)
        sign(folder)
        (folder / "tokenizer" / "linked").symlink_to(tmp_path / "secret")
        outcome = project.lmkit("generate", folder)
        assert outcome.code in (2, 3), outcome.err
        assert "nobody's business" not in outcome.err


TEMPLATES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.popen('touch CANARY').read() }}",
    "{{ self._TemplateReference__context }}{{ self.__init__.__globals__.__builtins__ }}",
    "{{ raise_exception.__globals__['__builtins__']['open']('CANARY', 'w') }}",
    "{{ lipsum.__globals__['os'].system('touch CANARY') }}",
    "{% for x in ().__class__.__base__.__subclasses__() %}{{ x('touch CANARY', shell=True) }}"
    "{% endfor %}",
    "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "{{ messages.append(1) }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os.system('touch CANARY') }}",
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_runs_nothing(project: Project, canary: Path, template: str) -> None:
    text = template.replace("CANARY", str(canary))
    line = f"{{class: lmkit.text.tokenizer.Tiktoken, chat: {json.dumps(text)}}}"
    project.rewrite("tokenizer: lmkit.text.tokenizer.Byte", f"tokenizer: {line}")
    outcome = project.lmkit("check", project.yaml)
    assert outcome.code == 2
    assert "chat template" in outcome.error


# --- what really happens --------------------------------------------------------------------------


def test_nothing_is_unpickled_by_a_whole_run(project: Project) -> None:
    """Python tells a hook of every object that a pickle makes (`pickle.find_class`)."""
    code = (
        "import sys\n"
        "found = []\n"
        "hook = lambda event, args: event == 'pickle.find_class' and found.append(args)\n"
        "sys.addaudithook(hook)\n"
        "from lmkit.cli import main\n"
        "code = main(['train', 'tiny.yaml', 'stages.0.steps=2'])\n"
        "code += main(['train', 'tiny.yaml', 'stages.0.steps=3'])\n"
        "code += main(['generate', 'run', '-n', '1'])\n"
        "sys.exit(code or len(found) and str(found[:3]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project.folder, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_how_many_canaries_there_are() -> None:
    number = len(PICKLES) + 2 + len(TAGS) + 3 * len(CLASSES) + 10 + len(ROOTS) + 1 + 6 + 1
    number += len(TEMPLATES)
    assert number >= 30
    print(f"canaries not executed: {number}")
