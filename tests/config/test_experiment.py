"""experiment: a YAML becomes frozen dataclasses; cross-checks name the line that is wrong."""

from __future__ import annotations

import dataclasses
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmkit.config.experiment import Experiment, Stage, differences, load_experiment
from lmkit.config.registry import build, check
from lmkit.config.spec import Spec
from lmkit.errors import ConfigError, LMKitError

YAML = """\
name: small
tokenizer: {class: lmkit.text.tokenizer.Byte}
model: {class: collections.OrderedDict, depth: 4}
stages:
  - name: pretrain
    data: {class: a.B, path: x.txt}
    tokens: 2M
    batch_tokens: 16_384
    optimizers:
      - {class: torch.optim.AdamW, params: [matrices], lr: 3e-4}
    evaluate: {every: 100, samples: ["def main("]}
  - name: tune
    data: a.B
    epochs: 0.5
    init_from: pretrain
"""

Load = Callable[..., Experiment]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    monkeypatch.setattr(sys, "path", list(sys.path))

    def read(*overrides: str, text: str = YAML) -> Experiment:
        (tmp_path / "x.yaml").write_text(text)
        return load_experiment(tmp_path / "x.yaml", overrides)

    return read


def test_a_yaml_becomes_an_experiment(load: Load, tmp_path: Path) -> None:
    experiment = load()
    pretrain, tune = experiment.stages
    assert (pretrain.tokens, pretrain.batch_tokens, pretrain.batch_size) == (
        2_000_000,
        16_384,
        None,
    )
    assert pretrain.optimizers[0].args["lr"] == 3e-4
    assert pretrain.evaluate.samples == ("def main(",)
    assert (tune.data, tune.batch_size, tune.optimizers) == (Spec("a.B"), 8, "auto")
    assert experiment.model == Spec("collections.OrderedDict", {"depth": 4})
    assert (experiment.out, experiment.seed) == ("runs/small", 1337)
    assert experiment.folder == str(tmp_path)
    assert experiment.file == str(tmp_path / "x.yaml")
    with pytest.raises(dataclasses.FrozenInstanceError):
        experiment.seed = 3  # type: ignore[misc]


def test_it_goes_through_json_and_pickle_unchanged(load: Load) -> None:
    experiment = load()
    stored = json.loads(json.dumps(experiment.to_dict(), allow_nan=False))
    again = Experiment.from_dict(stored, folder="/elsewhere")
    assert again == experiment
    assert again.folder == "/elsewhere"
    assert "folder" not in stored
    assert "file" not in stored
    assert pickle.loads(pickle.dumps(experiment)) == experiment


@pytest.mark.parametrize(
    ("override", "place", "said"),
    [
        (
            "stages.pretrain.step=5",
            None,
            "experiment.stages.0 takes no 'step'; did you mean 'steps'",
        ),
        ("modle=5", None, "experiment takes no 'modle'; did you mean 'model'?"),
        ("folder=x", None, "experiment takes no 'folder'"),
        ("stages.pretrain.grad_clip=1", None, "takes no 'grad_clip'; a stage calls it clip"),
        ("stages.pretrain.lr=1", None, "takes no 'lr'; it belongs to an optimizer: optimizers: [{"),
        ("stages.pretrain.odd=1", None, "; it takes name, data, objective, validation, steps, to"),
        ("stages.pretrain.odd=1", None, ", ...; see lmkit describe stage"),
        ("stages.pretrain.evaluate.odd=1", None, "see lmkit describe evaluate"),
        ("stages.pretrain.steps=many", None, "experiment.stages.0.steps must be an integer"),
        ("stages.pretrain.tokens=atuo", None, "'auto' or an integer, not 'atuo'"),
        ("stages.pretrain.optimizers=adam", None, "must be 'auto' or a list, not 'adam'"),
        ("stages.pretrain.optimizers=[]", None, "there are no optimizers"),
        ("stages.pretrain.data=3", None, "stages.0.data must be a class, not 3"),
        ("stages.pretrain.evaluate=often", None, "must be Evaluate's keys, not 'often'"),
        ("stages.pretrain.evaluate.evry=3", None, "takes no 'evry'; did you mean 'every'?"),
        ("stages.pretrain.evaluate.every=-1", None, "every must be at least 0, not -1"),
        ("stages.pretrain.checkpoint.keep=1", None, "keep must be at least 2, not 1"),
        ("stages.pretrain.batch_size=0", None, "batch_size must be at least 1"),
        ("stages.tune.epochs=0", None, "epochs must be above 0, not 0.0"),
        ("stages.pretrain.clip=-1", None, "clip must be above 0"),
        ("stages.pretrain.tokens=0", None, "tokens must be at least 1"),
        ("stages.pretrain.tokens=null", ":5", "stage 'pretrain': it has no length; write one of"),
        ("stages.pretrain.name=0", None, "must be a string, not 0"),
        ("stages.pretrain.name='0'", None, "'0' cannot name a stage"),
        ("stages.pretrain.name=a/b", None, "'a/b' cannot name a stage"),
        ("stages.pretrain.name=a.b", None, "cannot name a stage"),
        ("stages.pretrain.name=tune", ":4", "two stages are called 'tune'"),
        ("stages.pretrain.init_from=tune", ":4", "starts from 'tune', which is not before it"),
        ("name=../x", None, "'../x' cannot name a run; it names a folder"),
        ("seed=-1", None, "seed must be at least 0"),
        ("stages=[]", None, "there are no stages"),
        ("stages={}", None, "stages must be a list"),
        ("imports=[no_such_module_here]", None, "there is no module 'no_such_module_here'"),
    ],
)
def test_what_is_wrong_is_named(
    load: Load, tmp_path: Path, override: str, place: str | None, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(override)
    at = f"override {override!r}: " if place is None else f"{tmp_path / 'x.yaml'}{place}: "
    assert str(caught.value).startswith(at)
    assert said in str(caught.value)


def test_what_is_wrong_in_the_file_has_its_line(load: Load, tmp_path: Path) -> None:
    for written, meant, line, said in [
        ("    tokens: 2M", "    token: 2M", 7, "takes no 'token'; did you mean 'tokens'"),
        (
            "    tokens: 2M",
            "    tokens: 2M\n    steps: 3",
            7,
            "steps and tokens exclude each other",
        ),
        ("    batch_tokens", "    batch_size: 3\n    batch_tokens", 8, "exclude each other"),
        ("    data: a.B\n", "", 12, "experiment.stages.1 needs 'data'; the source of its text"),
        ("name: small\n", "", 1, "experiment needs 'name'"),
        ("params: [matrices]", "params: [matrices], params: 3", 10, "comes twice"),
    ]:
        with pytest.raises(ConfigError) as caught:
            load(text=YAML.replace(written, meant, 1))
        assert str(caught.value).startswith(f"{tmp_path / 'x.yaml'}:{line}: ")
        assert said in str(caught.value)


def test_a_wrong_argument_of_a_class_has_its_line(load: Load, tmp_path: Path) -> None:
    (tmp_path / "my_net.py").write_text("class Net:\n    def __init__(self, width: int): ...\n")
    (tmp_path / "other").mkdir()
    yaml = YAML.replace("collections.OrderedDict, depth", "my_net.Net,\n  widht")
    model = load(text=yaml).model
    with pytest.raises(ConfigError) as caught:
        check(model)
    assert str(caught.value) == (
        f"{tmp_path / 'x.yaml'}:4: my_net.Net takes no 'widht'; did you mean 'width'?"
    )
    assert type(build(load(text=yaml.replace("widht", "width")).model)).__name__ == "Net"


def test_imports_make_short_names_known(load: Load, tmp_path: Path) -> None:
    (tmp_path / "my_names.py").write_text(
        "from lmkit import register\n@register('tiny')\nclass Tiny:\n    pass\n"
    )
    experiment = load("imports=[my_names]", "model=tiny")
    assert type(build(experiment.model)).__name__ == "Tiny"


def test_overrides_replace_the_horizon_and_the_class(load: Load) -> None:
    changed = load("stages.pretrain.steps=2", "stages.1.batch_tokens=4k", "model=a.B")
    assert (changed.stages[0].steps, changed.stages[0].tokens) == (2, None)
    assert (changed.stages[1].batch_tokens, changed.stages[1].batch_size) == (4000, None)
    assert differences(load(), changed) == [
        "model.class",
        "model.depth",
        "stages.pretrain.steps",
        "stages.pretrain.tokens",
        "stages.tune.batch_size",
        "stages.tune.batch_tokens",
    ]


def test_arguments_alone_are_for_the_default_class(load: Load, tmp_path: Path) -> None:
    text = YAML.replace("stages:", "runner: {device: cpu}\nstages:")
    experiment = load("stages.tune.schedule.warmup=3", text=text)
    assert experiment.runner == Spec(Experiment.runner.path, {"device": "cpu"})
    assert str(experiment.runner.at) == f"{tmp_path / 'x.yaml'}:4"
    assert experiment.stages[1].schedule == Spec(Stage.schedule.path, {"warmup": 3})
    assert load("runner.threads=2").runner == Spec(Experiment.runner.path, {"threads": 2})
    with pytest.raises(ConfigError, match="experiment.model must be a class, not"):
        load("model={depth: 3}")


def test_differences_see_lists_nulls_and_missing_stages(load: Load) -> None:
    base = load()
    assert differences(base, load()) == []
    assert differences(base, load("stages.0.evaluate.samples=[]")) == [
        "stages.pretrain.evaluate.samples"
    ]
    assert differences(base, load("stages.0.optimizers.0.lr=1")) == [
        "stages.pretrain.optimizers.0.lr"
    ]
    assert differences(base, load("model.layers={}")) == ["model.layers"]
    fewer = dataclasses.replace(base, stages=base.stages[:1])
    assert all(key.startswith("stages.tune.") for key in differences(base, fewer))
    assert differences(base, dataclasses.replace(base, folder="/elsewhere")) == []


def test_made_in_python_it_is_checked_as_well() -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        Stage(name="a", data=Spec("a.B"), steps=1, tokens=3)
    with pytest.raises(ConfigError, match="there are no stages"):
        Experiment(name="a", tokenizer=Spec("a.B"), model=Spec("a.B"), stages=())


def test_structure_is_checked_without_torch(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(YAML)
    code = (
        "import sys; from lmkit.config import load_experiment;"
        f"load_experiment({str(tmp_path / 'x.yaml')!r});"
        "assert not {'torch', 'numpy', 'tiktoken'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


keys = st.sampled_from(
    ["name", "model", "stages", "stages.0", "stages.tune", "stages.0.data", "seed"]
)
tails = st.sampled_from(
    ["", ".class", ".steps", ".tokens", ".evaluate", ".evaluate.every", ".0", ".x"]
)
written = st.sampled_from(
    ["1", "-1", "2M", "no", "x", "[]", "{}", "[1]", "{class: a.B}", "{a: 1}", ""]
)


@given(st.lists(st.tuples(keys, tails, written), max_size=3))
@settings(max_examples=50, deadline=None)
def test_any_overrides_give_an_experiment_or_an_lmkit_error(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, str, Any]]
) -> None:
    file = tmp_path_factory.mktemp("x") / "x.yaml"
    file.write_text(YAML)
    try:
        experiment = load_experiment(file, [f"{key}{tail}={value}" for key, tail, value in changes])
    except LMKitError:
        return
    stored = json.loads(json.dumps(experiment.to_dict(), allow_nan=False))
    assert Experiment.from_dict(stored) == experiment
