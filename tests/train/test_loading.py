"""A model comes back from nothing but its folder; a stranger's folder runs nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lmkit.checkpoints.contents import CheckpointContents
from lmkit.checkpoints.directory import CheckpointDir
from lmkit.checkpoints.manifest import Manifest
from lmkit.config.registry import Spec, add_search_folder, resolve
from lmkit.errors import CheckpointError, ConfigError, ModelError
from lmkit.nn.int8 import Int8Linear
from lmkit.nn.linear import FixedLinear
from lmkit.text import Byte
from lmkit.train.loading import (
    build_model,
    computes_in,
    find_checkpoint,
    load_model,
    save_for_inference,
)
from lmkit_models.mlp import MLP

PLUGIN = '''
import torch
from torch import nn
from lmkit.model import LMBase

class Net(LMBase):
    """In the shape of the ancestors: keywords go on to the base."""

    def __init__(self, width=4, activation=None, **kwargs):
        super().__init__(**kwargs)
        self.embedding = nn.Embedding(self.tokenizer.vocab_size if self.tokenizer else 257, width)
        self.head = nn.Linear(width, 257, bias=False)
        self.head.weight = self.embedding.weight
        self.activation = activation or nn.Identity()

    def forward(self, tokens):
        return self.head(self.activation(self.embedding(tokens)))
'''


@pytest.fixture(autouse=True)
def clean_imports() -> Iterator[None]:
    before = list(sys.path)
    yield
    sys.path[:] = before
    for name in [name for name in sys.modules if name.startswith("plug_")]:
        del sys.modules[name]


def make_model(**changes: Any) -> MLP:
    settings = {"embedding_dim": 2, "window": 2, "nodes": 4, "layers": 1, "max_len": 8, **changes}
    return MLP(tokenizer=Byte(), **settings)


def rewrite(folder: Path, name: str, change: dict[str, Any]) -> None:
    """Alter a JSON file as a stranger would who makes a checkpoint: the manifest fits."""
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**content, **change}))
    (folder / "manifest.json").unlink()
    Manifest.write(folder)


def test_a_model_made_by_hand_comes_back(tmp_path: Path) -> None:
    model = make_model(nodes=5)
    back = load_model(save_for_inference(model, tmp_path / "m", {}))
    assert isinstance(back, MLP)
    assert not back.training
    assert back.init_kwargs == model.init_kwargs
    assert back.generate_prompts(["ab"], max_new_tokens=4) == model.generate_prompts(
        ["ab"], max_new_tokens=4
    )
    assert back.tokenizer.fingerprint == Byte().fingerprint


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_dtype_is_the_one_saved(tmp_path: Path, dtype: torch.dtype) -> None:
    model = make_model().to(dtype)
    back = load_model(save_for_inference(model, tmp_path / "m", {}))
    assert {p.dtype for p in back.parameters()} == {dtype}
    assert all(map(torch.equal, back.parameters(), model.parameters()))


@pytest.mark.parametrize("precision", ["auto", "bf16", "fp32", "int8"])
def test_a_model_for_inference_says_the_same(tmp_path: Path, precision: Any) -> None:
    model = make_model(embedding_dim=32, nodes=64)
    folder = save_for_inference(model, tmp_path / "m", {})
    back, tokens = load_model(folder, precision=precision), torch.arange(8)[None]
    kind = {"int8": Int8Linear}.get(precision, FixedLinear)
    assert isinstance(back.head, kind)
    with torch.no_grad():
        found, wanted = back.logits(tokens).float(), model.logits(tokens)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.03 * wanted.abs().max().item())
    with pytest.raises(ModelError, match="packed for inference, its weights cannot be saved"):
        save_for_inference(back, tmp_path / "other", {})
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(("gain", "computing"), [(2.0, "bf16"), (1.0, "fp32")])
def test_auto_is_what_the_hardware_is_fast_in(
    monkeypatch: pytest.MonkeyPatch, gain: float, computing: str
) -> None:
    monkeypatch.setattr("lmkit.train.precision.bf16_gain", lambda: gain)
    cpu = torch.device("cpu")
    assert computes_in("auto", cpu) == computes_in("int8", cpu) == computing
    assert (computes_in("bf16", cpu), computes_in("fp32", cpu)) == ("bf16", "fp32")


def test_an_unknown_precision_is_told_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no precision 'int4' .*; did you mean 'int8'\?"):
        load_model(tmp_path / "nowhere", precision="int4")  # type: ignore[arg-type]


def test_an_experiments_model_comes_back_without_its_run(tmp_path: Path) -> None:
    spec = {"class": "lmkit_models.mlp.MLP", "nodes": 3, "max_len": 8}
    model = build_model(spec, Byte())
    folder = save_for_inference(model, tmp_path / "m", {"name": "x", "model": spec})
    assert load_model(folder).init_kwargs["nodes"] == 3


def test_of_a_run_the_newest_good_checkpoint_is_loaded(tmp_path: Path) -> None:
    directory = CheckpointDir(tmp_path / "run" / "checkpoints")
    directory.prepare()
    for step in (9, 10):
        model = make_model()
        torch.nn.init.constant_(model.head.bias, step)
        directory.save(CheckpointContents(model, step=step, stage="a"))
    for path in (tmp_path / "run", directory.folder, str(tmp_path / "run")):
        assert load_model(path).head.bias[0] == 10
    (directory.folder / "00000010-a" / "model.safetensors").write_bytes(b"")
    assert load_model(tmp_path / "run").head.bias[0] == 9
    with pytest.raises(CheckpointError, match=r"model\.safetensors has 0 bytes, not"):
        load_model(directory.folder / "00000010-a")


def test_where_no_checkpoint_is_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint is here"):
        find_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="there is no such folder"):
        find_checkpoint(tmp_path / "none")


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    folder = save_for_inference(make_model(nodes=4), tmp_path / "m", {})
    model = {"class": "lmkit_models.mlp.MLP", **make_model(nodes=5).init_kwargs}
    rewrite(folder, "experiment.json", {"model": model})
    with pytest.raises(CheckpointError, match="another architecture: .*hidden.0.weight is") as e:
        load_model(folder)
    assert e.value.exit_code == 3


def test_loading_leaves_no_write_in_the_folder(tmp_path: Path) -> None:
    folder = save_for_inference(make_model(), tmp_path / "m", {})
    before = sorted(folder.rglob("*"))
    model = load_model(folder)
    torch.nn.init.zeros_(model.head.weight)
    assert sorted(folder.rglob("*")) == before
    find_checkpoint(folder)


def test_loading_draws_nothing_and_copies_no_weight(tmp_path: Path) -> None:
    folder = save_for_inference(make_model(), tmp_path / "m", {})
    state = torch.get_rng_state()
    model = load_model(folder)
    assert torch.equal(torch.get_rng_state(), state)
    places = Path("/proc/self/maps")
    if places.exists():
        maps = [line.split() for line in places.read_text().splitlines() if str(folder) in line]
        assert maps
        for parameter in model.parameters():
            assert any(lies_in(parameter.data_ptr(), line[0]) for line in maps)


def lies_in(place: int, borders: str) -> bool:
    """Whether an address is between two, which the kernel writes in hex."""
    begin, end = (int(border, 16) for border in borders.split("-"))
    return begin <= place < end


# --- the user's own classes -------------------------------------------------------------------


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    (home / "plug_net.py").write_text(PLUGIN)
    add_search_folder(home)
    return home / "plug_net.py"


def test_a_users_model_comes_back_tied_in_another_process(plugin: Path, tmp_path: Path) -> None:
    net = resolve("plug_net.Net")(width=3, max_len=8)
    net.tokenizer = Byte()
    folder = save_for_inference(net, tmp_path / "m", {})
    load = (
        "import sys; from lmkit.train.loading import load_model\n"
        "net = load_model(sys.argv[1], trust_code=len(sys.argv) > 2)\n"
        "assert net.head.weight is net.embedding.weight\n"
        "print(net.generate_prompts(['ab'], max_new_tokens=3), sys.modules['plug_net'].__file__)"
    )

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", load, str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)

    wrote = net.generate_prompts(["ab"], max_new_tokens=3)
    assert run().stdout.strip() == f"{wrote} {plugin}"
    plugin.unlink()
    assert run("trust").stdout.strip() == f"{wrote} {folder / 'code' / 'plug_net.py'}"


def test_parts_that_are_modules_may_be_named(plugin: Path, tmp_path: Path) -> None:
    spec = {"class": "plug_net.Net", "width": 2, "activation": {"class": "torch.nn.GELU"}}
    net = build_model(spec, Byte())
    assert net.tokenizer is not None  # its constructor declares none: it is set
    back = load_model(save_for_inference(net, tmp_path / "m", {"model": spec}))
    assert isinstance(back.activation, torch.nn.GELU)


def test_a_function_of_the_users_own_may_make_the_model(plugin: Path, tmp_path: Path) -> None:
    with plugin.open("a") as file:
        file.write("\ndef small():\n    return Net(width=2)\n")
    spec = {"class": "plug_net.small"}
    folder = save_for_inference(build_model(spec, Byte()), tmp_path / "m", {"model": spec})
    assert load_model(folder).init_kwargs["width"] == 2


def test_a_default_that_changes_later_changes_no_model_that_there_is(
    plugin: Path, tmp_path: Path
) -> None:
    spec = {"class": "plug_net.Net"}
    net = build_model(spec, Byte())
    folder = save_for_inference(net, tmp_path / "m", {"model": spec})
    default = f"width={net.init_kwargs['width']}"
    assert default in PLUGIN
    plugin.write_text(PLUGIN.replace(default, "width=7"))
    load = (
        "import sys; from lmkit.train.loading import load_model\n"
        "print(load_model(sys.argv[1]).init_kwargs['width'])"
    )
    command = [sys.executable, "-c", load, str(folder)]
    told = subprocess.run(command, capture_output=True, text=True, cwd=plugin.parent, check=True)
    assert told.stdout.strip() == str(net.init_kwargs["width"])


def test_a_class_inside_a_function_is_said_to_be_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Local(MLP):
        pass

    save_for_inference(Local(tokenizer=Byte(), nodes=2), tmp_path / "m", {})
    assert "Local is defined inside a function: load_model will not find it" in caplog.text


def test_an_experiment_without_a_model_is_damaged(tmp_path: Path) -> None:
    folder = save_for_inference(make_model(), tmp_path / "m", {})
    rewrite(folder, "experiment.json", {"model": None})
    with pytest.raises(CheckpointError, match="names no model"):
        load_model(folder)


def test_a_class_that_is_no_model_is_refused() -> None:
    with pytest.raises(ModelError, match=r"torch\.nn\.GELU is no language model"):
        build_model({"class": "torch.nn.GELU"}, None)
    with pytest.raises(ModelError, match=r"torch\.nn\.GELU is no language model"):
        build_model(Spec("torch.nn.GELU"), None)


# --- a stranger's folder ----------------------------------------------------------------------

CANARY = "import pathlib; pathlib.Path({!r}).write_text('ran')"


@pytest.mark.parametrize("place", ["model", "inside", "tokenizer"])
@pytest.mark.parametrize(
    "path", ["subprocess.Popen", "os.system", "builtins.exec", "plug_evil.run"]
)
def test_nothing_that_a_stranger_names_is_called(tmp_path: Path, path: str, place: str) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "plug_evil.py").write_text(
        f"import pathlib\ndef run(**_):\n    pathlib.Path({str(canary)!r}).write_text('ran')\n"
    )
    add_search_folder(tmp_path)
    folder = save_for_inference(make_model(), tmp_path / "m", {})
    evil = {"class": path, "args": ["touch", str(canary)], "command": f"touch {canary}"}
    spec = {"class": "lmkit_models.mlp.MLP", **make_model().init_kwargs}
    if place == "tokenizer":
        rewrite(folder, "tokenizer/tokenizer.json", {"class": path, "settings": evil})
    elif place == "model":
        rewrite(folder, "experiment.json", {"model": evil})
    else:
        rewrite(folder, "experiment.json", {"model": {**spec, "name": evil}})
    with pytest.raises(CheckpointError, match=f"it would call {path}"):
        load_model(folder)
    assert not canary.exists()


def test_a_stranger_cannot_vouch_for_the_standard_library(tmp_path: Path) -> None:
    folder = save_for_inference(make_model(), tmp_path / "m", {})
    rewrite(folder, "experiment.json", {"model": {"class": "subprocess.Popen", "args": "true"}})
    with pytest.raises(CheckpointError, match=r"it would call subprocess\.Popen"):
        load_model(folder)
    (folder / "code").mkdir()
    (folder / "code" / "subprocess.py").write_text("")
    real = Path(subprocess.__file__)
    source = {"module": "subprocess", "root": str(real.parent), "file": real.name, "sha256": "0"}
    (folder / "code" / "sources.json").write_text(json.dumps({"sources": [source]}))
    rewrite(folder, "experiment.json", {})
    with pytest.raises(CheckpointError, match=r"code/sources\.json is damaged"):
        load_model(folder)


def test_a_class_that_is_not_here_is_named(tmp_path: Path) -> None:
    folder = save_for_inference(make_model(), tmp_path / "m", {})
    rewrite(folder, "experiment.json", {"model": {"class": "no_such_package.Net"}})
    with pytest.raises(ConfigError, match="no module 'no_such_package'"):
        load_model(folder)


def test_a_pickle_in_the_folder_is_never_opened(tmp_path: Path) -> None:
    folder = save_for_inference(make_model(), tmp_path / "m", {})
    (folder / "model.pt").write_bytes(b"cos\nsystem\n(S'touch canary'\ntR.")
    (folder / "optimizer.pkl").write_bytes(b"cos\nsystem\n(S'touch canary'\ntR.")
    load_model(folder)
    assert not Path("canary").exists()
    (folder / "model.pt").replace(folder / "model.safetensors")
    with pytest.raises(CheckpointError):
        load_model(folder)
    (folder / "manifest.json").unlink()
    Manifest.write(folder)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read"):
        load_model(folder)
