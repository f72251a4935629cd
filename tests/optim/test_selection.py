"""Words in a YAML that mean parameters, and how several optimizers share them out."""

from __future__ import annotations

import pytest
import torch
from torch.nn import Parameter

from lmkit.config.registry import Place, Spec
from lmkit.errors import ConfigError
from lmkit.optim.selection import select, share_out

MUON, ADAMW = "lmkit.optim.Muon", "torch.optim.AdamW"


@pytest.fixture
def groups() -> dict[str, list[tuple[str, Parameter]]]:
    def named(*names: str) -> list[tuple[str, Parameter]]:
        return [(name, Parameter(torch.zeros(2, 2))) for name in names]

    made = {
        "embeddings": named("embed.weight"),
        "matrices": named("blocks.0.up.weight", "blocks.0.down.weight", "blocks.1.up.weight"),
        "head": [],
        "scalars": named("blocks.0.norm.weight", "blocks.1.norm.weight"),
    }
    made["matrices"][1][1].secondary_optimizer = True  # type: ignore[attr-defined]
    return made


def specs(*shares: object) -> list[Spec]:
    return [Spec(ADAMW, {} if share is None else {"params": share}) for share in shares]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("embeddings", ["embed.weight"]),
        (["scalars", "embeddings"], ["embed.weight", "blocks.0.norm.weight",
                                     "blocks.1.norm.weight"]),
        (["blocks.*.up.weight"], ["blocks.0.up.weight", "blocks.1.up.weight"]),
        (["tag:secondary_optimizer"], ["blocks.0.down.weight"]),
        (["head"], []),
        (["*.weight", "embeddings"], ["embed.weight", "blocks.0.up.weight", "blocks.0.down.weight",
                                      "blocks.1.up.weight", "blocks.0.norm.weight",
                                      "blocks.1.norm.weight"]),
    ],
)  # fmt: skip
def test_what_words_mean(groups: dict, words: object, names: list[str]) -> None:
    assert list(select(words, groups)) == names


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("matricies", "'matricies'; did you mean 'matrices'"),
        (["embeddings", "embed.wieght"], "did you mean 'embed.weight'"),
        (["blocks.0"], r"did you mean 'blocks\.0\.\*'"),
        (["zzz*"], "groups of this model: embeddings, matrices, head, scalars"),
        (["tag:nothing"], r"parameter\.nothing = True"),
        (3, "a list of words, not 3"),
        ([["embeddings"]], "a list of words"),
    ],
)
def test_words_that_mean_nothing(groups: dict, words: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        select(words, groups, at=Place("x.yaml", 7))
    assert str(caught.value).startswith("x.yaml:7: ")


def test_a_parameter_in_two_groups_is_refused(groups: dict) -> None:
    groups["head"] = [("head.weight", groups["embeddings"][0][1])]
    with pytest.raises(ConfigError, match="head.weight is in group 'embeddings' and in 'head'"):
        select("matrices", groups)


def test_the_first_takes_and_the_one_without_params_gets_the_rest(groups: dict) -> None:
    rest, tagged, matrices = share_out(
        groups, specs(None, ["tag:secondary_optimizer"], ["matrices"])
    )
    assert list(tagged) == ["blocks.0.down.weight"]
    assert list(matrices) == ["blocks.0.up.weight", "blocks.1.up.weight"]
    assert list(rest) == ["embed.weight", "blocks.0.norm.weight", "blocks.1.norm.weight"]


def test_frozen_parameters_belong_to_nobody(groups: dict) -> None:
    for name in ("embeddings", "scalars"):
        for _, p in groups[name]:
            p.requires_grad_(False)
    shares = share_out(groups, specs(["embeddings"], ["matrices"], None))
    assert [len(share) for share in shares] == [0, 3, 0]


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ([["matrices"], ["embeddings"]], "no optimizer takes blocks.0.norm.weight, blocks.1"),
        ([["embeddings"]], r"blocks.0.down.weight, blocks.1.up.weight and 2 more; an optimizer"),
        ([["*"], ["matrices"]], "gets no parameter: an optimizer before it has blocks.0.up.weight"),
        ([None, None], "both take all the rest"),
        ([], "no optimizer takes"),
    ],
)
def test_shares_that_do_not_come_out(groups: dict, shares: list, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        share_out(groups, specs(*shares))


def test_a_model_that_is_all_frozen(groups: dict) -> None:
    for named in groups.values():
        for _, p in named:
            p.requires_grad_(False)
    with pytest.raises(ConfigError, match="every parameter is frozen"):
        share_out(groups, specs(None))
