"""Preferences: pairs as tokens, the gradient of DPO's loss, and what training on them brings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from lmkit.config import Experiment, Spec, Stage
from lmkit.config.spec import Place
from lmkit.data import InMemory, prepare
from lmkit.errors import ConfigError, DataError
from lmkit.model import LMBase
from lmkit.prompts import Message, Prompt
from lmkit.rl.dpo import DPO, PairRows, Preferences
from lmkit.rl.weighing import log_probs
from lmkit.text import Batch, Byte, encode_prompt
from lmkit.text.pairs import encode_pair, split_pair, trim_pair
from lmkit.train.accumulate import LossModule, accumulate
from lmkit.train.objective import Scene

PAIRS = [
    {"prompt": f"{n} and", "chosen": f" yes {n}", "rejected": f" no{n * 'o'}"} for n in range(6)
]


@pytest.fixture
def rows(model: LMBase) -> PairRows:
    store = prepare(
        InMemory(PAIRS, holdout=0.0), Byte(), "train", max_len=model.max_len, pairs=True,
        progress=False,
    )  # fmt: skip
    return PairRows(store, model.max_len, seed=1, tokenizer=Byte())


class Once(Iterator[Batch]):
    """A stream of the first rows."""

    tokens, measures, waited = 0, {}, 0.0

    def __init__(self, rows: PairRows, count: int) -> None:
        self.rows, self.count, self.at = rows, count, 0

    def __next__(self) -> Batch:
        self.at += self.count
        return self.rows.batch(self.at - self.count, self.count)

    def close(self) -> None: ...


def test_a_pair_comes_apart_as_it_was_put_together() -> None:
    prompt = Prompt.of({"prompt": "ab", "chosen": "cd", "rejected": "e"})
    halves = split_pair(encode_pair(Byte(), prompt))
    for half, text in zip(halves, ("cd", "e"), strict=True):
        alone = encode_prompt(
            Byte(), Prompt.of({"prompt": "ab", "truth": text}), include_prompts=False
        )
        assert half.ids.tolist() == alone.ids.tolist()
        assert half.mask.tolist() == alone.mask.tolist()


def test_of_a_conversation_only_the_last_answer_is_weighed() -> None:
    turns = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    prompt = Prompt(messages=turns, chosen="dd", rejected="e")
    chosen, rejected = split_pair(encode_pair(Byte(), prompt))
    assert Byte().decode(chosen.ids[chosen.mask][:-1].tolist()) == "dd"
    assert Byte().decode(rejected.ids[rejected.mask][:-1].tolist()) == "e"


def test_each_half_has_half_a_row() -> None:
    prompt = Prompt(prompt="ab", chosen=60 * "c", rejected="e")
    chosen, rejected = split_pair(trim_pair(encode_pair(Byte(), prompt), 32))
    assert len(chosen.ids) == 16
    assert len(rejected.ids) < 16
    out_of_reach = Prompt(prompt=60 * "a", chosen="c", rejected="e")
    assert trim_pair(encode_pair(Byte(), out_of_reach), 32).trained == 0


def test_pairs_that_were_cut_are_noted_and_left_out_if_no_difference_is_left() -> None:
    pairs = [
        {"prompt": "a", "chosen": 60 * "c", "rejected": "e"},
        {"prompt": "a", "chosen": 60 * "c" + "d", "rejected": 60 * "c" + "e"},
        {"prompt": "a", "chosen": "c", "rejected": "e"},
    ]
    store = prepare(InMemory(pairs), Byte(), "all", max_len=32, pairs=True, progress=False)
    assert store.document_count == 2
    assert store.notes == {
        "trimmed": 2, "first_trimmed": "prompts[0]",
        "without_target": 1, "first_without_target": "prompts[1]",
    }  # fmt: skip


def test_rows_hold_whole_pairs_chosen_first(rows: PairRows) -> None:
    texts = [
        [Byte().decode(sample.ids[sample.mask][:-1].tolist()) for sample in rows.samples(number)]
        for number in range(rows.rows_per_epoch)
    ]
    flat = [text for row in texts for text in row]
    assert sorted(flat[0::2]) == sorted(pair["chosen"] for pair in PAIRS)
    assert sorted(flat[1::2]) == sorted(pair["rejected"] for pair in PAIRS)


def test_weights_give_the_gradient_of_the_loss(
    model: LMBase, rows: PairRows, make_scene: Callable[..., Scene]
) -> None:
    scene = make_scene(model)
    wishes = DPO(beta=0.5, label_smoothing=0.1)
    stream = Preferences(wishes, Once(rows, rows.rows_per_epoch), scene)
    batch = next(stream)
    assert batch.count == len(PAIRS)
    model.zero_grad()
    accumulate(
        LossModule(model),
        batch,
        micro_batch=2,
        world=scene.world,
        precision=scene.precision,
        seed=0,
    )
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    model.zero_grad()
    plain = rows.batch(0, rows.rows_per_epoch)
    assert plain.documents is not None
    gained = model.log_probs(plain) - scene.reference().log_probs(plain)
    losses = []
    for row, documents in enumerate(plain.documents):
        sums = [
            (gained[row] * plain.weights[row])[documents == number].sum()
            for number in range(int(documents.max()) + 1)
        ]
        for chosen, rejected in zip(sums[0::2], sums[1::2], strict=True):
            gap = 0.5 * (chosen - rejected)
            losses.append(-0.9 * F.logsigmoid(gap) - 0.1 * F.logsigmoid(-gap))
    loss = torch.stack(losses).mean()
    loss.backward()
    assert stream.measures["preference_loss"] == pytest.approx(loss.item(), rel=1e-4)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-6)


def test_training_prefers_the_chosen_answers(
    model: LMBase, rows: PairRows, make_scene: Callable[..., Scene]
) -> None:
    scene = make_scene(model)
    stream = Preferences(DPO(), Once(rows, rows.rows_per_epoch), scene)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _, batch in zip(range(12), stream, strict=False):
        model.zero_grad()
        accumulate(
            LossModule(model), batch, micro_batch=4, world=scene.world, precision=scene.precision,
            seed=0,
        )  # fmt: skip
        optimizer.step()
    assert stream.measures["preference_accuracy"] == 1.0
    assert stream.measures["preference_margin"] > 1.0


def test_log_probs_do_not_depend_on_the_micro_batch(
    model: LMBase, rows: PairRows, make_scene: Callable[..., Scene]
) -> None:
    batch = rows.batch(0, rows.rows_per_epoch)
    scene = make_scene(model)
    found = []
    for scene.micro_batch.rows in (1, len(batch)):
        found.append(log_probs(model, batch, scene.micro_batch, scene.precision))
    one, all_ = found
    torch.testing.assert_close(one, all_, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        told = -(all_ * batch.weights).sum()
        torch.testing.assert_close(model.loss(batch).total, told, rtol=1e-4, atol=1e-4)


def experiment(tmp_path: Path, data: Spec) -> Experiment:
    stage = Stage(name="dpo", data=data, steps=1)
    return Experiment(
        name="x", tokenizer=Spec("x.Y"), model=Spec("x.Y"), stages=(stage,), folder=str(tmp_path)
    )


def test_data_without_preferences_is_refused(model: LMBase, tmp_path: Path) -> None:
    lines = '{"prompt": "a", "chosen": "b", "rejected": "c"}\n{"prompt": "a", "truth": "b"}\n'
    (tmp_path / "p.jsonl").write_text(lines)
    spec = Spec("lmkit.data.sources.JsonLines", {"path": "p.jsonl", "holdout": 0.0})
    asked = experiment(tmp_path, spec)
    with pytest.raises(DataError, match=r"p.jsonl:2: this is no preference"):
        DPO().prepare(asked, asked.stages[0], model)


def test_no_pair_is_held_out_for_nothing_measures_them(model: LMBase, tmp_path: Path) -> None:
    spec = Spec("lmkit.data.sources.InMemory", {"prompts": PAIRS, "holdout": 0.5})
    asked = experiment(tmp_path, spec)
    data = DPO().prepare(asked, asked.stages[0], model)
    assert (data.train.document_count, data.validation) == (len(PAIRS), None)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"validation": Spec("x.Y")}, "DPO measures nothing on held-out pairs"),
        ({"isolate_documents": True}, "DPO always keeps the two answers of a row apart"),
    ],
)
def test_a_key_that_would_do_nothing_is_refused(
    model: LMBase, tmp_path: Path, change: dict[str, Any], what: str
) -> None:
    asked = experiment(tmp_path, Spec("lmkit.data.sources.InMemory", {"prompts": PAIRS}))
    place = Place("x.yaml", 7)
    (key,) = change
    stage = replace(asked.stages[0], **change, places={key: place})
    with pytest.raises(ConfigError, match=f"^x.yaml:7: stage 'dpo': {what}; leave {key} out"):
        DPO().prepare(asked, stage, model)


def test_preferences_without_an_objective_are_refused(model: LMBase) -> None:
    with pytest.raises(DataError, match="lmkit.rl.dpo"):
        prepare(InMemory(PAIRS, holdout=0.0), Byte(), "train", max_len=64, progress=False)


def test_a_model_that_mixes_documents_is_refused(model: LMBase, tmp_path: Path) -> None:
    model.accepts_documents = False
    asked = experiment(tmp_path, Spec("lmkit.data.sources.InMemory", {"prompts": PAIRS}))
    with pytest.raises(ConfigError, match="keeps the two answers of a row apart"):
        DPO().prepare(asked, asked.stages[0], model)


@pytest.mark.parametrize(
    "change", [{"beta": 0.0}, {"label_smoothing": 0.5}, {"label_smoothing": -0.1}]
)
def test_a_value_out_of_range_is_named(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        DPO(**change)
