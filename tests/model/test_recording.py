from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
from torch import Tensor, nn

from lmkit.errors import ModelError
from lmkit.model import LMBase
from lmkit.text import Byte


class Plain(LMBase):
    def __init__(self, width: int = 8, *, deep: bool = False, **kwargs: Any) -> None:
        super().__init__(name="plain", max_len=16, width=width, **kwargs)
        self.embedding = nn.Embedding(257, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.embedding(tokens) @ self.embedding.weight.T


class Child(Plain):
    def __init__(self, doubled: int, **kwargs: Any) -> None:
        super().__init__(2 * doubled, **kwargs)


class Quiet(Plain):
    """Has no constructor of its own."""


def test_the_call_is_recorded_with_its_defaults() -> None:
    assert Plain().init_kwargs == {"width": 8, "deep": False}
    assert Plain(4, deep=True).init_kwargs == {"width": 4, "deep": True}


def test_the_class_that_was_named_has_the_last_word() -> None:
    model = Child(3, deep=True)
    assert model.init_kwargs == {"doubled": 3, "deep": True}
    assert Quiet(5).init_kwargs == {"width": 5, "deep": False}


def test_the_record_makes_the_model_again() -> None:
    model = Child(3)
    again = Child(**model.init_kwargs)
    assert again.embedding.weight.shape == model.embedding.weight.shape
    again.load_state_dict(model.state_dict())


def test_the_tokenizer_is_stored_elsewhere() -> None:
    assert Plain(tokenizer=Byte()).init_kwargs == {"width": 8, "deep": False}


def test_a_keyword_that_nobody_declares_is_refused() -> None:
    with pytest.raises(ModelError, match=r"^Child takes no 'widht'; did you mean 'width'\?"):
        Child(3, widht=4)


def test_the_constructor_still_shows_its_own_signature() -> None:
    assert list(inspect.signature(Plain).parameters) == ["width", "deep", "kwargs"]


def test_wrong_calls_fail_as_python_says() -> None:
    with pytest.raises(TypeError, match=r"missing 1 required positional argument: 'doubled'"):
        Child()  # type: ignore[call-arg]


def test_a_model_can_be_copied() -> None:
    model = Child(3)
    assert copy.deepcopy(model).init_kwargs == model.init_kwargs
