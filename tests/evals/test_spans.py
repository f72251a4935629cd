from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lmkit.errors import NumericError
from lmkit.evals.spans import Judged, Span, judge
from lmkit.model import LMBase
from lmkit.text import Byte
from lmkit_models.gpt import GPT
from lmkit_models.recurrent import GRULM


class Bigram(LMBase):
    """Logits for 300 ids, of which the tokenizer has 257."""

    def __init__(self) -> None:
        super().__init__(tokenizer=Byte(), max_len=16)
        self.table = nn.Embedding(300, 300)
        self.dropout = nn.Dropout(0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.dropout(self.table(tokens))


def span(text: str, start: int) -> Span:
    return Span((256, *text.encode()), start)


def shaken(model: LMBase) -> LMBase:
    """No weight is zero: a model that begins with zeros finds all tokens equally likely."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
    return model


def test_the_loss_is_the_mean_over_the_judged_tokens() -> None:
    model = Bigram()
    log_p = model.table.weight[:, :257].log_softmax(-1)
    wanted = -(log_p[ord("b"), ord("c")] + log_p[ord("c"), ord("d")]).item() / 2
    found = judge(model, [span("abcd", 3)])[span("abcd", 3)]
    assert found.loss == pytest.approx(wanted, rel=1e-5)
    assert model.training
    of_first = -log_p[256, ord("a")].item()
    assert judge(model, [span("a", 1)])[span("a", 1)].loss == pytest.approx(of_first, rel=1e-5)


def test_exact_is_every_token_the_likeliest() -> None:
    model = Bigram()
    with torch.no_grad():
        model.table.weight.zero_()
        for one, next_one in ("ab", "bc", "cz"):
            model.table.weight[ord(one), ord(next_one)] = 5
        model.table.weight[:, 290] = 9  # no id of the tokenizer's
    spans = [span("abc", 2), span("abcd", 2), span("abcd", 4), span("xabc", 3), span("xabc", 2)]
    found = judge(model, spans)
    assert [found[each].exact for each in spans] == [True, False, False, True, False]


MODELS = {
    "gpt": lambda: GPT(depth=2, width=32, head_dim=16, max_len=64, tokenizer=Byte()),
    "gru": lambda: GRULM(width=16, max_len=64, tokenizer=Byte()),
}
ids = st.integers(0, 256)
any_span = st.lists(ids, min_size=2, max_size=40).flatmap(
    lambda row: st.builds(Span, st.just(tuple(row)), st.integers(1, len(row) - 1))
)


@pytest.mark.parametrize("name", MODELS)
@given(spans=st.lists(any_span, min_size=1, max_size=8))
@settings(max_examples=15)
def test_a_span_does_not_feel_the_others(name: str, spans: list[Span]) -> None:
    model = shaken(MODELS[name]())
    alone = {each: judge(model, [each])[each] for each in spans}
    for max_logits in (1, 257 * 60, 2**27):
        together = judge(model, spans, max_logits)
        assert together.keys() == alone.keys()
        for each, found in together.items():
            assert found.loss == pytest.approx(alone[each].loss, abs=1e-5)
            assert found.exact == alone[each].exact


@pytest.mark.parametrize("max_logits", [1, 257 * 12, 257 * 30, 2**27])
def test_no_batch_is_larger_than_it_may_be(max_logits: int) -> None:
    model = Bigram()
    sizes = []
    model.register_forward_hook(lambda _, inputs, __: sizes.append(inputs[0].shape))
    spans = [span("a" * n, 1) for n in (3, 9, 3, 4, 9, 8, 5)] + [span("b" * 4, 2)]
    judge(model, spans, max_logits)
    sizes = sizes[1:]  # the first is the model's check
    assert sum(rows for rows, _ in sizes) == 6  # equal spans are read once
    assert all(rows == 1 or rows * length * 257 <= max_logits for rows, length in sizes)
    assert len(sizes) == {1: 6, 257 * 12: 4, 257 * 30: 2, 2**27: 1}[max_logits]


def test_what_is_cropped_is_the_beginning() -> None:
    whole = Span((1, 2, 3, 4, 5), 3)
    assert whole.cropped(5) == whole
    assert whole.cropped(4) == Span((2, 3, 4, 5), 2)
    assert whole.cropped(3) == Span((3, 4, 5), 1)
    assert whole.cropped(2) == Span((4, 5), 1)


def test_logits_that_are_no_numbers_are_told() -> None:
    model = Bigram()
    nn.init.constant_(model.table.weight, float("nan"))
    with pytest.raises(NumericError, match="the logits are not finite"):
        judge(model, [span("abc", 1)])


def test_nothing_gives_nothing() -> None:
    assert judge(Bigram(), []) == {}
    assert Judged(1.0, True).exact
