"""A checkpoint gives back what it was given, and nothing that is not as it was written."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch

from lmkit.checkpoints.checkpoint import Checkpoint
from lmkit.checkpoints.contents import CheckpointContents, checkpoint_bytes
from lmkit.errors import CheckpointError
from lmkit.optim import OptimizerSet
from lmkit.text import Byte, Tiktoken
from lmkit_models.mlp import MLP
from tests.checkpoints.small import MODEL, OPTIMIZERS, contents, make_model


def test_all_comes_back_to_the_bit(tmp_path: Path) -> None:
    experiment = {"name": "x", "seed": 3}
    given = contents(7, metrics={"loss": 1.5, "worst": math.inf}, experiment=experiment)
    checkpoint = Checkpoint(given.write(tmp_path / "c"))
    checkpoint.check()
    assert (checkpoint.step, checkpoint.stage) == (7, "a")
    assert checkpoint.metrics == {"loss": 1.5, "worst": None}
    assert checkpoint.state == {"step": 7}
    assert checkpoint.experiment["seed"] == 3
    assert checkpoint.experiment["model"]["class"] == "lmkit_models.mlp.MLP"
    assert checkpoint.model_arguments["nodes"] == 4

    model = make_model()
    checkpoint.load_weights(model)
    tokenizer = checkpoint.tokenizer()
    assert tokenizer is not None
    assert tokenizer.fingerprint == Byte().fingerprint
    assert all(map(torch.equal, model.parameters(), MODEL.parameters()))

    optimizers = OptimizerSet.build(
        {"all": list(model.named_parameters())}, [{"class": "torch.optim.AdamW", "lr": 0.1}]
    )
    assert checkpoint.has_optimizers
    checkpoint.load_optimizers(optimizers)
    back, saved = optimizers.state_tensors(), OPTIMIZERS.state_tensors()
    assert back.keys() == saved.keys()
    assert all(torch.equal(back[name], saved[name]) for name in saved)


def in_chat(chat: str) -> MLP:
    sizes = {"embedding_dim": 2, "window": 2, "nodes": 4, "layers": 1, "max_len": 8}
    return MLP(tokenizer=Tiktoken("python4k", chat=chat), **sizes)


def test_weights_may_be_taught_another_chat_template(tmp_path: Path) -> None:
    given = CheckpointContents(in_chat("plain"), None, state={}, stage="a", step=1)
    checkpoint = Checkpoint(given.write(tmp_path / "c"))
    model = in_chat("prompt_truth")
    checkpoint.check_weights(model)
    checkpoint.load_weights(model)
    assert model.tokenizer is not None
    assert model.tokenizer.chat.name == "prompt_truth"
    checkpoint.check_tokenizer(in_chat("plain"), same_chat=True)
    with pytest.raises(CheckpointError, match=r"its chat template is not .*prompt_truth\.jinja"):
        checkpoint.check_tokenizer(model, same_chat=True)


def test_weights_are_not_given_to_ids_that_mean_other_text(tmp_path: Path) -> None:
    given = CheckpointContents(in_chat("plain"), None, state={}, stage="a", step=1)
    checkpoint = Checkpoint(given.write(tmp_path / "c"))
    for other in (in_chat("chatml"), make_model()):  # more special tokens; another vocabulary
        with pytest.raises(CheckpointError, match="the same id would mean other text"):
            checkpoint.load_weights(other)


def test_there_is_no_pickle_and_a_hash_of_every_file(tmp_path: Path) -> None:
    folder = contents(1).write(tmp_path / "c")
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert {path.rpartition(".")[2] for path in found} <= {"json", "safetensors"}
    assert found == {*Checkpoint(folder).manifest.files, "manifest.json"}
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__


def test_for_inference_only_what_inference_needs_is_left(tmp_path: Path) -> None:
    experiment = {"name": "x", "stages": [{"secret": "data"}]}
    folder = contents(1, experiment=experiment).write(tmp_path / "c", for_inference=True)
    checkpoint = Checkpoint(folder)
    checkpoint.check(for_inference=True)
    assert sorted(checkpoint.experiment) == ["model", "name"]
    assert checkpoint.state == {}
    assert not checkpoint.has_optimizers
    assert not (folder / "optimizer.safetensors").exists()
    with pytest.raises(CheckpointError, match="written for inference"):
        checkpoint.load_optimizers(OPTIMIZERS)


def test_a_checkpoint_is_replaced_but_nothing_else(tmp_path: Path) -> None:
    contents(1).write(tmp_path / "new" / "c")
    contents(2).write(tmp_path / "new" / "c")
    assert Checkpoint(tmp_path / "new" / "c").state == {"step": 2}
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    for place in (tmp_path / "home", tmp_path / "home" / "letter.txt"):
        with pytest.raises(CheckpointError, match="no checkpoint to replace"):
            contents(1).write(place)
    assert (tmp_path / "home" / "letter.txt").read_text() == "dear"
    (tmp_path / "empty").mkdir()
    contents(1).write(tmp_path / "empty")


def test_state_that_json_cannot_hold_is_refused_whole(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"state\.json cannot be written: .*Tensor"):
        CheckpointContents(MODEL, state={"loss": torch.zeros(1)}).write(tmp_path / "c")
    assert os.listdir(tmp_path) == []


def test_its_size_is_foreseen(tmp_path: Path) -> None:
    folder = contents(1).write(tmp_path / "c")
    used = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    assert used <= checkpoint_bytes(MODEL)
    tensors = sum(p.numel() * 12 for p in MODEL.parameters())
    assert checkpoint_bytes(MODEL) == tensors + (1 << 20)


def test_a_manifest_must_list_what_is_needed(tmp_path: Path) -> None:
    folder = contents(1).write(tmp_path / "c")
    manifest = folder / "manifest.json"
    content = json.loads(manifest.read_text())
    del content["files"]["model.safetensors"]
    manifest.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="missing from the manifest"):
        Checkpoint(folder).check()
