from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd

from lmkit.inference import Rows, Sampling, decode, replay
from lmkit.inference import step as module
from lmkit.inference.replay import Board, reach
from lmkit.inference.step import Stepper
from lmkit.model import LMBase
from lmkit.nn import KVCache, StateCache
from lmkit.nn.static_cache import StaticCache
from lmkit.serve.conversation import Conversation
from lmkit.text import Byte
from lmkit_models.gpt import GPT
from lmkit_models.gpt2 import GPT2
from lmkit_models.recurrent import GRULM
from tests.inference.writing import written

VOCAB, MAX_LEN = 23, 24
GREEDY = Sampling(max_new_tokens=40)
SAMPLED = Sampling(max_new_tokens=40, temperature=1.0, seed=3)
PROMPTS = [[1, 2, 3], [4] * 9, [5, 6], [7, 8, 9, 10, 11]]

# dynamo itself makes an instance of each autograd.Function
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Traced:
    """A backend that runs what was traced as it is, and counts the graphs."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


def drawn(model: LMBase) -> LMBase:
    """With weights so large that all of the past matters."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model.eval()


def gpt(depth: int = 2) -> LMBase:
    measures: dict[str, Any] = {"width": 32, "head_dim": 8, "kv_heads": 2, "max_len": MAX_LEN}
    return drawn(GPT(depth=depth, vocab_size=VOCAB, window_pattern="SL", window=7, **measures))


def gpt2() -> LMBase:
    return drawn(GPT2(vocab_size=VOCAB, embedding_dim=32, layers=1, heads=4, max_len=MAX_LEN))


def texts(
    model: LMBase, forward: Any, prompts: Sequence[list[int]], sampling: Sampling, **more: Any
) -> list[list[int]]:
    """What decode adds to each prompt."""
    options = {"max_len": MAX_LEN, "vocab_size": VOCAB, "make_cache": model.make_cache, **more}
    return written(forward, prompts, sampling, **options)


def plain(model: LMBase) -> Any:
    return lambda tokens, cache: model.logits(tokens, cache=cache)


def same(model: LMBase, stepper: Stepper, prompts: list[list[int]], sampling: Sampling) -> bool:
    """Whether the stepper writes what the model does."""
    return texts(model, stepper, prompts, sampling) == texts(model, plain(model), prompts, sampling)


def test_two_graphs_write_what_the_model_does() -> None:
    model, backend = gpt(), Traced()
    stepper = Stepper(model, backend)
    assert same(model, stepper, PROMPTS[:1], GREEDY)  # longer than the context: it moves on
    assert backend.graphs == 1
    assert same(model, stepper, [[9] * 8], Sampling(max_new_tokens=5))  # a smaller cache
    assert backend.graphs == 1
    for prompts in (PROMPTS, PROMPTS[:2]):  # uneven rows, another number of them
        assert same(model, stepper, prompts, SAMPLED)
        assert backend.graphs == 2
    stops = {"stop_ids": {3, 5, 8}, "slots": 3}  # rows end, stay a while, leave; others enter
    ways = [texts(model, forward, PROMPTS, SAMPLED, **stops) for forward in (stepper, plain(model))]
    assert ways[0] == ways[1]
    assert {len(text) for text in ways[0]} != {SAMPLED.max_new_tokens}
    assert backend.graphs == 2


def test_one_graph_of_a_model_with_learned_positions() -> None:
    model, backend = gpt2(), Traced()
    stepper = Stepper(model, backend)
    assert same(model, stepper, PROMPTS, GREEDY)
    assert backend.graphs == 1
    model.to(torch.bfloat16)  # another model from the next cache on
    assert same(model, stepper, PROMPTS, GREEDY)
    assert backend.graphs == 2


def test_inductor_writes_what_the_model_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor.config, "compile_threads", 1)  # no pool to wait for
    model = gpt(depth=1)
    assert same(model, Stepper(model), PROMPTS[:2], SAMPLED)


def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of rows at each step that goes through a static cache."""
    rows: list[int] = []
    append = StaticCache.append

    def counted(cache: StaticCache, layer: int, k: Tensor, *rest: Any) -> Any:
        if layer == 0:
            rows.append(len(k))
        return append(cache, layer, k, *rest)

    monkeypatch.setattr(StaticCache, "append", counted)
    monkeypatch.setattr(torch, "compile", lambda step, **_: step)
    return rows


def test_a_store_is_written_in_place() -> None:
    """By one index_put: inductor makes a copy of the store for each slice_scatter, as comes of a
    write to a part of its heads. With it 16 rows were decoded at half the speed."""
    done: set[Any] = set()

    def traced(graph: torch.fx.GraphModule, _: Any) -> Any:
        done.update(node.target for node in graph.graph.nodes)
        return make_boxed_func(graph.forward)

    model = gpt()  # half of its heads stand one token late
    stepper = Stepper(model, aot_autograd(fw_compiler=traced))
    assert same(model, stepper, PROMPTS, GREEDY)
    assert torch.ops.aten.index_put.default in done
    assert torch.ops.aten.slice_scatter.default not in done


def test_bf16_stays_close(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, model = steps(monkeypatch), gpt().to(torch.bfloat16)
    tokens, found = torch.tensor([[1, 2, 3], [4, 5, 6]]), []
    for forward in (Stepper(model), plain(model)):
        cache = model.make_cache(2, 8)
        for new in (tokens, tokens[:, :1]):
            cache.begin([new.shape[1]] * 2)
            with torch.no_grad():
                logits = forward(new, cache)
            cache.commit()
        found.append(logits)
    assert rows == [2]
    torch.testing.assert_close(*found, rtol=0.02, atol=0.05)


def test_what_is_no_step_goes_the_plain_way() -> None:
    def refused(*_: Any) -> Any:
        raise AssertionError("compiled")

    recurrent = drawn(GRULM(vocab_size=VOCAB, width=16, layers=1, max_len=MAX_LEN))
    assert isinstance(recurrent.make_cache(1, 8), StateCache)
    assert same(recurrent, Stepper(recurrent, refused), PROMPTS, SAMPLED)
    model = gpt()
    stepper = Stepper(model, refused)
    found = texts(model, stepper, PROMPTS, SAMPLED, make_cache=lambda rows, length: None)
    assert found == texts(model, plain(model), PROMPTS, SAMPLED)
    one = Sampling(max_new_tokens=1)
    assert same(model, stepper, PROMPTS, one)  # a prompt alone


class Asking(GPT):
    """Takes its positions from the cache's lengths: another number at every step."""

    def hidden(self, tokens: Tensor, cache: Any = None, documents: Any = None) -> Tensor:
        if cache is not None:
            tokens = tokens * (max(cache.lengths) >= 0)
        return super().hidden(tokens, cache, documents)


def test_a_model_that_cannot_be_compiled_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    model = drawn(Asking(depth=1, width=16, head_dim=8, vocab_size=VOCAB, max_len=MAX_LEN))
    with caplog.at_level(logging.WARNING):
        assert same(model, Stepper(model, Traced()), PROMPTS, GREEDY)
    (record,) = (record for record in caplog.records if record.name == module.__name__)
    assert "Asking: the step is not compiled" in record.message
    assert "lengths" in record.message


def test_a_backend_that_fails_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no compiler was found\nat all")

    model = gpt2()
    stepper = Stepper(model, broken)
    with caplog.at_level(logging.WARNING):
        assert same(model, stepper, PROMPTS, GREEDY)
        assert same(model, stepper, PROMPTS[:1], GREEDY)
    (record,) = (record for record in caplog.records if record.name == module.__name__)
    assert "no compiler was found" in record.message
    assert "\n" not in record.message


def test_a_copy_compiles_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, model = steps(monkeypatch), gpt(depth=1)
    first = model.stepper
    assert model.stepper is first
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.stepper.model is other
        nn.init.zeros_(other.head.weight)
        assert texts(other, other.stepper, PROMPTS, GREEDY)[0] == [0] * GREEDY.max_new_tokens
    assert same(model, first, PROMPTS, GREEDY)
    assert rows


def test_a_model_and_a_conversation_are_asked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    measures: dict[str, Any] = {"width": 16, "head_dim": 8, "max_len": 64}
    model = drawn(GPT(depth=1, tokenizer=Byte(), **measures))
    sampling = Sampling(max_new_tokens=8, temperature=1.0)
    expected = model.generate(["a", "bcd"], sampling)
    talks = [Conversation(model, sampling, compile=compile) for compile in (False, True)]
    rows = steps(monkeypatch)
    assert model.generate(["a", "bcd"], sampling, compile=True) == expected
    assert set(rows) <= {1, 2}
    rows.clear()
    said = [[piece.text for piece in talk.say("e")] for talk in talks]
    assert said[0] == said[1]
    assert set(rows) == {1}


# --- boards: what CUDA graphs are recorded over, here with steps that are called again -----------


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Steppers take the way of CUDA, without a GPU; grows by one at each recording."""
    recorded: list[int] = []

    def record(run: Callable[[], Tensor], _: torch.device) -> Callable[[], Tensor]:
        recorded.append(1)
        run()
        kept = torch.empty_like(run())
        return lambda: kept.copy_(run())  # as a graph does: always the same tensor

    monkeypatch.setattr(replay, "record", record)
    monkeypatch.setattr(module, "replays", lambda device: True)
    monkeypatch.setattr(torch, "compile", lambda step, **_: step)
    return recorded


def test_boards_write_what_the_model_does(replayed: list[int]) -> None:
    model = gpt()
    stepper = Stepper(model)
    assert same(model, stepper, PROMPTS[:1], GREEDY)
    assert len(replayed) == 1
    assert same(model, stepper, [[9] * 8], Sampling(max_new_tokens=5))  # the next cache moves in
    assert len(replayed) == 1
    stops = {"stop_ids": {3, 5, 8}, "slots": 3}
    ways = [texts(model, forward, PROMPTS, SAMPLED, **stops) for forward in (stepper, plain(model))]
    assert ways[0] == ways[1]
    assert same(model, stepper, PROMPTS, SAMPLED)


def test_two_caches_at_once_do_not_share_a_board(replayed: list[int]) -> None:
    model = gpt()
    stepper = Stepper(model)
    options: dict[str, Any] = {"max_len": MAX_LEN, "vocab_size": VOCAB}
    options["make_cache"] = model.make_cache
    ways = [decode(stepper, Rows([prompt], 40), GREEDY, **options) for prompt in PROMPTS[:2]]
    turns = list(zip(*ways, strict=True))
    expected = texts(model, plain(model), PROMPTS[:2], GREEDY)
    assert [[turn[i].id for turn in turns] for i in range(2)] == expected
    assert len(replayed) == 2


def test_a_graph_for_each_doubling_of_the_slots(
    replayed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "SHORTEST", 4)
    model = gpt()
    assert same(model, Stepper(model), [[1, 2]], Sampling(max_new_tokens=20))
    assert len(replayed) == 4  # 4, 8, 16, 32


def test_weights_that_have_moved_are_recorded_anew(replayed: list[int]) -> None:
    model = gpt()
    stepper = Stepper(model)
    assert same(model, stepper, PROMPTS[:1], GREEDY)
    model.to(torch.bfloat16).to(torch.float32)
    assert same(model, stepper, PROMPTS[:1], GREEDY)
    assert len(replayed) == 2


def test_a_board_does_not_show_what_stood_there_before() -> None:
    cache = KVCache(1, 100, layers=1)
    cache.begin([3])
    cache.append(0, torch.ones(1, 1, 3, 2), torch.ones(1, 1, 3, 2))
    cache.commit()
    board = Board(cache)
    assert board.keys[0].shape == (1, 1, reach(100) + 1, 2)
    board.keys[0].fill_(torch.nan)
    board.hold(cache)
    assert board.holds(cache)
    assert cache.keys[0] is board.keys[0]
    assert board.keys[0][0, 0, :, 0].tolist() == [1.0] * 3 + [0.0] * 126
    assert not board.can_hold(KVCache(1, 100, layers=1))
