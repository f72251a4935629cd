"""What a stage measures of its model: the tasks it names, and the samples it wants to read."""

from __future__ import annotations

import pytest
import torch

from lmkit.config import Evaluate, Spec
from lmkit.errors import ConfigError
from lmkit.evals.task import open_tasks
from lmkit.model import LMBase
from lmkit.text import Byte
from lmkit.train.evaluation import write_samples
from lmkit_models.gpt import GPT

SUMS = Spec("lmkit.tasks.arithmetic.Arithmetic")


@pytest.fixture
def model() -> LMBase:
    torch.manual_seed(0)
    return GPT(tokenizer=Byte(), depth=1, width=32, head_dim=16, max_len=64)


def test_a_class_may_be_asked_twice_under_two_names() -> None:
    hard = Spec(SUMS.path, {"digits": 3, "name": "hard"})
    assert [task.name for task in open_tasks([SUMS, hard], "")] == ["arithmetic", "hard"]
    with pytest.raises(ConfigError, match="two tasks are called 'arithmetic'; give one of them"):
        open_tasks([SUMS, Spec(SUMS.path, {"digits": 3})], "")


def test_what_is_no_task_is_refused() -> None:
    texts = Spec("lmkit.data.sources.InMemory", {"prompts": ["a"]})
    with pytest.raises(ConfigError, match="InMemory is no task"):
        open_tasks([texts], "")


def test_samples_go_on_with_a_text_and_questions_are_answered(model: LMBase) -> None:
    wishes = Evaluate(samples=("def ",), questions=("Who?",), max_new_tokens=5)
    (text, _), (question, answer) = write_samples(model, wishes, seed=1)
    assert text == "def "
    assert question == "Who?\n"
    alone = Evaluate(questions=("Who?",), max_new_tokens=5)
    assert write_samples(model, alone, seed=1)[0][0] == "Who?\n"
    asked = model.generate([{"messages": [{"role": "user", "content": "Who?"}]}])
    assert asked[0].prompt == "Who?"
    assert isinstance(answer, str)


def test_nothing_wished_is_nothing_written(model: LMBase) -> None:
    assert write_samples(model, Evaluate(), seed=1) == []
