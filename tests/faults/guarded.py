"""Runs of one experiment in children, on one rank or two: what `guards.py` makes its trials of."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # DDP does, which takes a rank 1.5 seconds
from forking import in_child
from torch.nn.modules.module import register_module_forward_pre_hook

from lmkit.cli import main
from lmkit.lab.equal_runs import compare_runs
from lmkit.text import Byte

YAML = """\
name: guarded
seed: 7
out: {folder}/run
tokenizer: lmkit.text.tokenizer.Byte
model: {{class: lmkit_models.gpt2.GPT2, embedding_dim: 16, layers: 1, heads: 2, max_len: 48,
         dropout: 0.1}}
runner: {{max_batch_size: 2, precision: fp32}}
stages:
  - name: pretrain
    data: {{class: lmkit.data.sources.TextFiles, path: {folder}/text, holdout: 0.25}}
    steps: 5
    batch_size: 4
    evaluate:
      every: 2
      tokens: 192
      samples: ["one", "two"]
      max_new_tokens: 4
      tasks: [&task {{class: lmkit.tasks.arithmetic.Arithmetic, digits: 1, tools: false}}]
      problems: 2
    checkpoint: {{every: 2}}
  - name: rl
    data: *task
    objective: {{class: lmkit.rl.grpo.GRPO, group_size: 2, max_new_tokens: 4, steps_per_rollout: 2}}
    steps: 4
    batch_size: 2
    evaluate: {{every: 3, tasks: [*task], problems: 2}}
    checkpoint: {{every: 2}}
"""


class Runs:
    """Runs of one experiment; `straight` is the undisturbed one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said = folder / "said.txt"
        (folder / "text").mkdir()
        for number in range(8):
            words = " ".join(f"{number} and {i} is {number + i}." for i in range(20))
            (folder / "text" / f"{number}.txt").write_text(words)
        text = YAML.format(folder=folder)
        (folder / "guarded.yaml").write_text(text)
        (folder / "short.yaml").write_text(text[: text.index("  - name: rl")])
        self.straight = folder / "straight"
        self.forwards = 0
        with Forwards() as seen:  # here, not in a child: what it imports, all children have
            assert self.train(self.straight) == 0
        self.forwards = seen.count

    def train(self, run: Path, *words: str, file: str = "guarded") -> int:
        """`lmkit train`; its exit code."""
        return main(["train", str(self.folder / f"{file}.yaml"), f"out={run}", *words])

    def trial(
        self, run: Path, disturb: Callable[[], object], *words: str, file: str = "guarded"
    ) -> int:
        """The exit code of a run in a child, where `disturb` is called before it."""

        def work() -> int:
            disturb()
            return self.train(run, *words, file=file)

        return in_child(work, 60, str(self.said))

    def differences(self, run: Path) -> list[str]:
        """What is other than in the straight run."""
        found = compare_runs(run, self.straight)
        return [f"{each.what}: {each.differences[0]}" for each in found if not each.equal]

    def goes_on(self, run: Path) -> list[str]:
        """What is wrong with the run that the same command goes on with; the run is removed."""
        code = self.trial(run, lambda: None)
        wrong = [self.said.read_text()] if code else self.differences(run)
        shutil.rmtree(run)
        return wrong


class Forwards:
    """Counts the forward passes of a model; at the one numbered `at` something happens."""

    def __init__(self, at: int = 0, happens: Callable[[], object] = lambda: None) -> None:
        self.count, self.at, self.happens = 0, at, happens

    def __enter__(self) -> Forwards:
        self.hook = register_module_forward_pre_hook(self.see)
        return self

    def __exit__(self, *_: object) -> None:
        self.hook.remove()

    def see(self, module: torch.nn.Module, inputs: Any) -> None:
        # a model may have a loss that passes by its own forward, but none passes by this
        if isinstance(module, torch.nn.Embedding) and module.num_embeddings > Byte().bos:
            self.count += 1
            if self.count == self.at:
                self.happens()


def as_ranks(
    runs: Runs, run: Path, disturb: Callable[[int], object], *words: str, file: str = "short"
) -> list[int]:
    """The exit codes of a run on two ranks; `disturb` gets the rank's number."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    codes = [99, 99]

    def start(rank: int) -> None:
        def enter() -> None:
            places: Mapping[str, object] = {
                "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2,
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
            }  # fmt: skip
            os.environ.update({name: str(value) for name, value in places.items()})
            disturb(rank)

        said = str(runs.said.with_suffix(f".{rank}"))

        def work() -> int:
            enter()
            return runs.train(run, *words, file=file)

        codes[rank] = in_child(work, 90, said)

    threads = [threading.Thread(target=start, args=[rank]) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return codes


def said_by(runs: Runs) -> str:
    """What both ranks printed."""
    return "".join(runs.said.with_suffix(f".{rank}").read_text() for rank in range(2))
