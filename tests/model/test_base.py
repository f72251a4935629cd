from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmkit.errors import ModelError, PluginError
from lmkit.inference import Sampling
from lmkit.model import LMBase, Loss
from lmkit.nn import Cache, KVCache, Mask, attend
from lmkit.prompts import Prompt
from lmkit.text import Batch, Byte, Tiktoken

SAMPLES = [{"prompt": "ab", "truth": "cde"}, {"prompt": "f", "truth": "g"}, "hij"]


class Bigram(LMBase):
    """As little as a model can be."""

    def __init__(self, vocab: int = 257) -> None:
        super().__init__(tokenizer=Byte(), max_len=16)
        self.table = nn.Embedding(vocab, vocab)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table(tokens)


class Attending(LMBase):
    """A cache, documents and a tuple as a result: all that a model may add."""

    def __init__(self) -> None:
        super().__init__(tokenizer=Byte(), max_len=16)
        self.token = nn.Embedding(257, 8)
        self.qkv = nn.Linear(8, 24)
        self.head = nn.Linear(8, 257)

    def forward(
        self, tokens: Tensor, cache: KVCache | None = None, documents: Tensor | None = None
    ) -> tuple[Tensor, Cache | None]:
        x = self.token(tokens)
        q, k, v = (y[:, None] for y in self.qkv(x).chunk(3, -1))
        if cache is None:
            mask = Mask.causal(tokens.shape[1], tokens.device, documents)
        else:
            k, v, mask = cache.append(0, k, v)
        return self.head(x + attend(q, k, v, mask=mask)[:, 0]), cache

    def make_cache(self, batch_size: int, length: int) -> KVCache:
        return KVCache(batch_size, length, layers=1)


def returning(make: Any) -> LMBase:
    """A model whose forward returns `make(tokens)`."""

    class Odd(LMBase):
        def __init__(self) -> None:
            super().__init__(tokenizer=Byte(), max_len=16)
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, tokens: Tensor) -> Any:
            return make(tokens)

    return Odd()


# --- what a model gets for free -------------------------------------------------------------------


def test_two_methods_make_a_model_that_learns_and_writes() -> None:
    torch.manual_seed(0)
    model = Bigram()
    optimizer = torch.optim.SGD(model.parameters(), lr=50.0)
    for _ in range(20):
        result = model.train_prompts([{"prompt": "a", "truth": "bcd"}])
        optimizer.zero_grad()
        (result.loss / result.token_count).backward()
        optimizer.step()
    assert model.generate_prompts(["a", "b"]) == ["bcd", "cd"]


def test_it_saves_and_loads_by_its_state_dict() -> None:
    model = Bigram()
    again = Bigram(**model.init_kwargs)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.logits(torch.tensor([[1, 2]])), model.logits(torch.tensor([[1, 2]])))


def test_signature_tells_what_a_model_accepts() -> None:
    assert (Bigram().accepts_cache, Bigram().accepts_documents) == (False, False)
    assert (Attending().accepts_cache, Attending().accepts_documents) == (True, True)


def test_a_tuple_and_a_cache_work() -> None:
    torch.manual_seed(0)
    model = Attending()
    cached = model.generate(["", "abc", "0123456789012345678"], Sampling(max_new_tokens=20))
    model.make_cache = lambda batch_size, length: None  # type: ignore[assignment,method-assign]
    uncached = model.generate(["", "abc", "0123456789012345678"], Sampling(max_new_tokens=20))
    assert cached == uncached


def test_its_name_is_its_class_until_it_has_one() -> None:
    assert Bigram().name == "Bigram"


# --- loss -------------------------------------------------------------------------------------


@pytest.mark.parametrize("include_prompts", [True, False])
def test_the_loss_is_what_a_hand_adds_up(include_prompts: bool) -> None:
    model = Bigram()
    bos, eos = model.need_tokenizer().bos, model.need_tokenizer().eos
    pairs = [(97, 98), (98, 99), (99, 100), (100, 101), (101, eos)] + [(102, 103), (103, eos)]
    asked = [(bos, 97), (97, 98), (bos, 102)]
    pairs = asked[::2] + pairs if include_prompts else pairs[1:]
    by_hand = sum(-model.table.weight[a].log_softmax(-1)[b] for a, b in pairs)
    result = model.train_prompts(SAMPLES[:2], include_prompts)
    torch.testing.assert_close(result.loss, by_hand)
    assert result.token_count == len(pairs)


def test_padding_does_not_count() -> None:
    model = Bigram()
    alone = [model.train_prompts([sample]) for sample in SAMPLES]
    together = model.train_prompts(SAMPLES)
    torch.testing.assert_close(together.loss, sum(result.loss for result in alone))
    assert together.token_count == sum(result.token_count for result in alone)


def test_the_gradient_of_rows_adds_up_to_that_of_the_batch() -> None:
    model = Attending()
    batch = model.tokenize(SAMPLES)
    whole = torch.autograd.grad(model.loss(batch).total, list(model.parameters()))
    for row in range(3):
        model.loss(batch.rows(row, row + 1)).total.backward()
    for parameter, expected in zip(model.parameters(), whole, strict=True):
        torch.testing.assert_close(parameter.grad, expected)


def test_tokenize_keeps_one_token_more_than_the_context() -> None:
    model = Bigram()
    batch = model.tokenize(["x" * 40, "yy"])
    assert batch.inputs.shape == (2, 16)
    assert batch.inputs[0].tolist() == [256, *b"x" * 15]
    assert batch.targets[0].tolist() == [*b"x" * 16]
    assert batch.count == 16 + 3


def test_a_sample_without_a_target_is_named() -> None:
    model = Bigram()
    lost = Prompt("x" * 16, "y", at="chats.jsonl:7")
    with pytest.warns(UserWarning, match=r"chats.jsonl:7: no token to train on within 16 tokens"):
        batch = model.tokenize([lost, {"prompt": "a", "truth": "b"}], include_prompts=False)
    assert batch.count == 2


def test_documents_reach_the_model() -> None:
    model = Attending()
    first, second = model.tokenize(["abc"]).inputs, model.tokenize(["xyz"]).inputs
    documents = torch.tensor([[0] * 4 + [1] * 4], dtype=torch.int32)
    packed = model.logits(torch.cat([first, second], 1), documents)
    torch.testing.assert_close(packed[:, 4:], model.logits(second))


def test_an_own_loss_is_what_train_prompts_uses() -> None:
    class Penalised(Bigram):
        def loss(self, batch: Batch) -> Loss:
            loss = super().loss(batch)
            return Loss(loss.total + 1000, loss.count, loss.bytes)

    assert Penalised().train_prompts(SAMPLES).loss > 1000


# --- predictions ----------------------------------------------------------------------------------


def test_predictions_are_the_likeliest_tokens_in_place_of_the_trained() -> None:
    model = Bigram(vocab=260)  # wider than the tokenizer
    with torch.no_grad():
        model.table.weight.copy_(torch.eye(260).roll(1, dims=1))  # after x comes x + 1
        model.table.weight[:, 259] = 9.0  # of the padding, never predicted
    predictions, loss, count = model.train_prompts(
        [{"prompt": "ab", "truth": "xy"}, {"prompt": "", "truth": "a"}], include_prompts=False
    )
    # the eos that follows "y" was guessed as "z"; after bos comes id 257, of the padding: id 0
    assert list(predictions) == ["cyz", "\x00b"]
    assert count == 5


def test_predictions_cost_nothing_until_they_are_read() -> None:
    model = Bigram()
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    model.check()
    calls.clear()
    predictions, _, _ = model.train_prompts(SAMPLES)
    assert len(predictions) == 3
    assert len(calls) == 1
    assert predictions[0] == predictions[:1][0]
    assert len(calls) == 2


# --- tokenizers -----------------------------------------------------------------------------------


def test_a_tiktoken_encoding_is_wrapped() -> None:
    model = Bigram()
    encoding = Tiktoken("python4k").encoding
    model.tokenizer = encoding
    assert isinstance(model.tokenizer, Tiktoken)
    assert model.tokenizer.encoding is encoding


def test_what_is_no_tokenizer_is_refused() -> None:
    with pytest.raises(ModelError, match="Bigram: a str is no tokenizer"):
        Bigram().tokenizer = "gpt2"  # type: ignore[assignment]


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: torch.zeros(1, 257), r"shape \(1, 257\), expected \(1, 2, vocabulary\)"),
        (lambda t: torch.zeros(2, 1, 257), r"shape \(2, 1, 257\), expected \(1, 2, vocabulary\)"),
        (lambda t: torch.zeros(1, 1, 257), r"shape \(1, 1, 257\), expected \(1, 2, vocabulary\)"),
        (lambda t: None, "gave a NoneType, expected logits"),
        (lambda t: torch.zeros(1, 2, 100), "has logits for 100 ids, its tokenizer has 257"),
    ],
)
def test_logits_that_do_not_fit_are_one_error(make: Any, message: str) -> None:
    for use in (
        lambda model: model.check(),
        lambda model: model.train_prompts(["abc"]),
        lambda model: model.generate("abc"),
    ):
        with pytest.raises(ModelError, match=f"Odd(.forward)? .*{message}") as error:
            use(returning(make))
        assert "\n" not in str(error.value)


def test_a_forward_that_fails_is_told_with_its_own_traceback() -> None:
    model = returning(lambda tokens: tokens.embeding)
    with pytest.raises(PluginError, match="Odd.forward fails on 2 tokens: Attr") as error:
        model.check()
    assert "lambda tokens: tokens.embeding" in error.value.traceback


def test_a_tokenizer_bigger_than_the_embedding_is_told_before_an_index_fails() -> None:
    model = Bigram(vocab=100)
    with pytest.raises(ModelError, match="Bigram has logits for 100 ids, its tokenizer has 257"):
        model.train_prompts(["\u00e9"])


def test_a_new_tokenizer_is_checked_anew() -> None:
    model = Bigram()
    model.check()
    model.tokenizer = Tiktoken("python4k")
    with pytest.raises(ModelError, match="its tokenizer has 4096"):
        model.generate("x")


def test_documents_for_a_model_without_them_are_refused() -> None:
    tokens = torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(ModelError, match="Bigram cannot keep the documents of a row apart"):
        Bigram().logits(tokens, torch.zeros(1, 4, dtype=torch.int32))


def test_a_model_without_forward_is_refused() -> None:
    class Empty(LMBase):
        pass

    with pytest.raises(ModelError, match=r"Empty has no forward\(tokens\)"):
        Empty()


def test_a_constructor_that_forgets_its_base_is_told_what_to_call() -> None:
    class Forgetful(LMBase):
        def __init__(self) -> None:
            self.head = nn.Linear(2, 2)

    class Wrong(LMBase):
        def __init__(self) -> None:
            super().__init__()
            self.head = self.tail

        def forward(self, tokens: Tensor) -> Tensor:
            return tokens

    told = r"Forgetful.__init__: cannot assign module .*; call super\(\).__init__\(tokenizer"
    with pytest.raises(ModelError, match=told):
        Forgetful()
    with pytest.raises(AttributeError, match="tail"):
        Wrong()


def test_check_is_blind_to_dropout_and_leaves_the_mode() -> None:
    model = returning(lambda tokens: F.one_hot(tokens, 257).float())
    model.check()
    assert model.training


def test_it_works_on_the_meta_device() -> None:
    model = Bigram().to("meta")
    model.check()
    assert model.device.type == "meta"


def test_a_model_without_parameters_is_on_the_cpu() -> None:
    model = returning(lambda tokens: F.one_hot((tokens + 1) % 257, 257).float())
    del model.scale
    assert model.device.type == "cpu"
    assert model.generate_prompts(["a"], 3) == ["bcd"]


def test_a_padded_vocabulary_has_no_part_in_the_loss() -> None:
    class Padded(LMBase):
        def __init__(self) -> None:
            super().__init__(tokenizer=Byte(), max_len=8)
            self.table = nn.Embedding(300, 300)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.table(tokens)

    torch.manual_seed(0)
    model = Padded()
    batch = model.tokenize(["abc", "de"])
    told = -(model.log_probs(batch) * batch.weights).sum()
    torch.testing.assert_close(model.loss(batch).total, told)
