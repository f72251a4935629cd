"""`lmkit describe`: the arguments of any class, as they were written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lmkit.config import resolve
from lmkit.config.sections import SECTIONS, described_as


@pytest.mark.parametrize("name", ["lmkit_models.gpt.GPT", "gpt"])
def test_a_model(lmkit: Callable[..., Any], name: str) -> None:
    done = lmkit("describe", name)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "lmkit_models.gpt.GPT"
    assert "depth: int  (needed)" in lines
    assert lines[lines.index("depth: int  (needed)") + 1] == "    transformer blocks."
    for line in (
        "width: int | None = None",
        "window_pattern: str = 'L'",
        "logit_softcap: float | None = 15.0",
        "qk_norm: bool = True",
    ):
        assert line in lines
    assert max(map(len, lines)) <= 100


def test_types_and_what_a_base_class_takes(lmkit: Callable[..., Any]) -> None:
    out = lmkit("describe", "lmkit.train.runner.BasicModelRunner").out
    assert "max_batch_size: int | Literal['auto'] = 'auto'\n" in out
    assert "overrides: Mapping[str, Any] | None = None\n" in out
    assert "precision: Literal['auto', 'bf16', 'fp16', 'fp32', 'fp8'] = 'auto'\n" in out, (
        "inherited"
    )
    out = lmkit("describe", "lmkit.data.sources.JsonLines").out
    assert "path: str | list[str]  (needed)\n    a file, a folder, a glob, or a list" in out


def test_the_keys_of_a_stage(lmkit: Callable[..., Any]) -> None:
    out = lmkit("describe", "stage").out
    assert out.startswith("lmkit.config.experiment.Stage\n")
    assert "schedule: Spec = lmkit.optim.schedule.WarmupCosine\n" in out
    assert "optimizers: Literal['auto'] | tuple[Spec, ...] = 'auto'\n" in out
    assert "evaluate: Evaluate = its own defaults, see `lmkit describe evaluate`\n" in out


@pytest.mark.parametrize("name", SECTIONS)
def test_the_parts_of_a_yaml(lmkit: Callable[..., Any], name: str) -> None:
    done = lmkit("describe", name)
    assert done.code == 0
    assert done.out.startswith(SECTIONS[name] + "\n")
    assert described_as(resolve(SECTIONS[name])) == name
    assert "``" not in done.out, "no marks of a documentation tool"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("lmkit.optim.schedule.WarmupCosine", "steps: int  (given by lmkit)"),
        ("torch.optim.AdamW", "params"),
        ("lmkit.data.sources.TextFiles", "folder"),
        ("lmkit.rl.grpo.GRPO", "folder"),
        ("runner", "experiment"),
    ],
)
def test_what_no_yaml_has_to_give(lmkit: Callable[..., Any], name: str, line: str) -> None:
    lines = lmkit("describe", name).out.splitlines()
    assert [each.endswith("(given by lmkit)") for each in lines if each.startswith(line)] == [True]


def test_a_class_of_the_current_folder(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.folder)
    out = project.lmkit("describe", "my_model.Table").out
    assert "Logits that hang on the last token only." in out
    assert "tokenizer  (given by lmkit)\n    a Tokenizer or a tiktoken Enc" in out, "as LMBase says"
    assert out.endswith("vocab_size: int = 257\n")


def test_a_class_that_says_nothing_of_itself(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    project.rewrite('    """Logits that hang on the last token only."""\n', "", "my_model.py")
    monkeypatch.chdir(project.folder)
    out = project.lmkit("describe", "my_model.Table").out
    assert out.startswith("my_model.Table\n\ntokenizer"), "LMBase's words are about all models"


def test_a_function(lmkit: Callable[..., Any]) -> None:
    out = lmkit("describe", "lmkit.data.vocabulary.train_tokenizer").out
    assert "\nLearn a byte-pair vocabulary" in out


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lmkit_models.gpt.GPTT", "has no 'GPTT'; did you mean 'GPT'?"),
        ("nothing", "nothing is registered as 'nothing'; "),
        ("SGD", "nothing is registered as 'SGD'; did you mean 'torch.optim.SGD'?"),
        ("Muon", "nothing is registered as 'Muon'; did you mean 'lmkit.optim.muon.Muon'?"),
        ("lmkit_model.gpt.GPT", "no module 'lmkit_model'; did you mean 'lmkit_models'?"),
        ("zq_model.Net", "no module 'zq_model'; it must be installed, beside the YAML or in"),
        ("lmkit.text", "lmkit.text: it is neither a class nor a function; "),
    ],
)
def test_what_is_not_there(lmkit: Callable[..., Any], name: str, said: str) -> None:
    done = lmkit("describe", name)
    assert done.code == 2
    assert said in done.error
