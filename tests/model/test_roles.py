from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lmkit.model import LMBase
from lmkit.model.roles import ROLES
from lmkit.text import Byte


class Net(LMBase):
    def __init__(self, vocab: int = 300, tied: bool = False, positions: int = 8) -> None:
        super().__init__(max_len=positions)
        self.tok = nn.Embedding(vocab, 6)
        self.pos_embed = nn.Parameter(torch.zeros(positions, 6))
        self.up = nn.Linear(6, 24)
        self.down = nn.Linear(24, 6, bias=False)
        self.norm = nn.LayerNorm(6)
        self.fc = nn.Linear(6, vocab, bias=False)
        if tied:
            self.fc.weight = self.tok.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tok(tokens) + self.pos_embed[: tokens.shape[1]]
        return self.fc(self.norm(x + self.down(self.up(x).relu())))


def names(model: LMBase) -> dict[str, set[str]]:
    known = {id(p): name for name, p in model.named_parameters()}
    return {role: {known[id(p)] for p in group} for role, group in model.param_groups().items()}


def test_roles_follow_shape_and_place() -> None:
    assert names(Net()) == {
        "matrices": {"up.weight", "down.weight"},
        "embeddings": {"tok.weight", "pos_embed"},
        "head": {"fc.weight"},
        "scalars": {"up.bias", "norm.weight", "norm.bias"},
    }


def test_a_tied_weight_is_one_head() -> None:
    assert names(Net(tied=True))["head"] == {"tok.weight"}
    assert names(Net(tied=True))["embeddings"] == {"pos_embed"}


@pytest.mark.parametrize("tied", [False, True])
def test_every_parameter_is_in_exactly_one_group(tied: bool) -> None:
    model = Net(tied=tied)
    groups = model.param_groups()
    assert tuple(groups) == ROLES
    assert sorted(id(p) for group in groups.values() for p in group) == sorted(
        id(p) for p in model.parameters()
    )


def test_a_head_without_an_embedding_is_found_by_the_tokenizer() -> None:
    class OneHot(LMBase):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(257, 4, bias=False)
            self.out = nn.Linear(4, 257, bias=False)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.out(self.inner(nn.functional.one_hot(tokens, 257).float()))

    model = OneHot()
    assert names(model)["head"] == set()
    model.tokenizer = Byte()
    assert names(model) == {
        "matrices": {"inner.weight"},
        "embeddings": set(),
        "head": {"out.weight"},
        "scalars": set(),
    }


def test_counts() -> None:
    embeddings, matrices, head, scalars = 300 * 6 + 8 * 6, 2 * 6 * 24, 300 * 6, 24 + 12
    assert Net().parameter_count() == embeddings + matrices + head + scalars
    assert Net().scaling_parameter_count() == matrices + head
    assert Net(tied=True).parameter_count() == 8 * 6 + matrices + head + scalars
    assert Net(tied=True).scaling_parameter_count() == matrices + head
    assert Net().flops_per_token(8) == 6 * (matrices + head)


def test_the_default_optimizer_spares_scalars_and_slows_with_size() -> None:
    (small,) = Net().default_optimizers(8192, 100)
    (large,) = Net(vocab=30_000).default_optimizers(8192, 100)
    assert small["class"] == "lmkit.optim.AdamW"
    assert small["no_decay"] == ["scalars"]
    assert 0 < large["lr"] < small["lr"] < 3e-3


def test_a_table_of_tokens_has_a_rate_of_its_own() -> None:
    """Its rows move only when their token occurs; positions and a tied head move at every step."""

    def table_specs(**settings: Any) -> list[Any]:
        model = Net(**settings)
        model.tokenizer = Byte()  # 257 entries; the table has some rows more
        *own, rest = model.default_optimizers(8192, 100)
        assert "params" not in rest
        assert rest["weight_decay"] == 0.1
        assert all(spec["lr"] > 5 * rest["lr"] and not spec["weight_decay"] for spec in own)
        assert all(spec["why"] for spec in (*own, rest))
        return [spec["params"] for spec in own]

    assert table_specs() == [["tok.weight"]]
    assert table_specs(tied=True) == []
    assert table_specs(positions=290) == [["tok.weight"]]
