"""batch: the one thing that travels to the model; knows ids and weights, nothing of text.

Shapes: B rows, T positions. A row is T + 1 tokens; inputs are the first T, targets the last T.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lmkit.text.samples import Sample

PADDING = -1  # the document id of padding


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Rows of tokens and what is to be learned from them.

    Attributes:
        inputs: (B, T) int64.
        targets: (B, T) int64, the token that follows each input.
        weights: (B, T) float32: 1 where the target is trained, 0 where not (padding, prompts), or
            an advantage.
        documents: (B, T) int32 or None. Positions of one row that have the same id may attend to
            each other; padding has the id -1. None: the whole row is one document.
        count: trained targets, that is weights != 0 when the batch was made. A plain int, so that
            dividing by it never waits for a GPU.
        bytes: UTF-8 bytes of the trained targets; special tokens count 0.
        row_bytes: `bytes` of each row, so that a batch can be cut.
    """

    inputs: Tensor
    targets: Tensor
    weights: Tensor
    documents: Tensor | None
    count: int
    bytes: int
    row_bytes: tuple[int, ...] | None = None

    @classmethod
    def build(
        cls,
        inputs: Tensor,
        targets: Tensor,
        weights: Tensor,
        documents: Tensor | None,
        token_bytes: np.ndarray,
    ) -> Batch:
        """A batch from its tensors (on the CPU), counted.

        Args:
            token_bytes: (vocab_size,) `Tokenizer.token_bytes`.
        """
        trained = weights.numpy() != 0
        row_bytes = np.where(trained, token_bytes[targets.numpy()], 0).sum(1, dtype=np.int64)
        return cls(
            inputs,
            targets,
            weights,
            documents,
            count=int(trained.sum()),
            bytes=int(row_bytes.sum()),
            row_bytes=tuple(row_bytes.tolist()),
        )

    @classmethod
    def of(
        cls,
        samples: Sequence[Sample],
        pad_id: int,
        token_bytes: np.ndarray,
        width: int | None = None,
    ) -> Batch:
        """One sample a row, padded on the right to `width` (default: the longest sample's).

        Raises:
            ValueError: a sample has more than width + 1 tokens.
        """
        longest = max((len(sample.ids) for sample in samples), default=2)
        rows = [[sample] for sample in samples]
        width = max(longest - 1, 1) if width is None else width
        return cls.packed(rows, pad_id, token_bytes, width, isolate=False)

    @classmethod
    def packed(
        cls,
        rows: Sequence[Sequence[Sample]],
        pad_id: int,
        token_bytes: np.ndarray,
        width: int,
        *,
        isolate: bool = True,
    ) -> Batch:
        """Several samples a row, one after another, padded on the right.

        A row holds width + 1 tokens: what `pack(lengths, width + 1, ...)` lays out. The first
        token of a later sample is a target of the sample before it if its mask says so.

        Args:
            isolate: number the samples of a row in `documents`, so that none attends to another.

        Raises:
            ValueError: a row has more than width + 1 tokens.
        """
        tokens = np.full((len(rows), width + 1), pad_id, dtype=np.int64)
        trained = np.zeros((len(rows), width + 1), dtype=np.float32)
        documents = np.full((len(rows), width + 1), PADDING, dtype=np.int32)
        for row, samples in enumerate(rows):
            used = sum(len(sample.ids) for sample in samples)
            if used > width + 1:
                raise ValueError(f"row {row} has {used} tokens; a row of {width} takes {width + 1}")
            start = 0
            for number, sample in enumerate(samples):
                stop = start + len(sample.ids)
                tokens[row, start:stop] = sample.ids
                trained[row, start:stop] = sample.mask
                documents[row, start:stop] = number
                start = stop
        return cls.build(
            torch.from_numpy(tokens[:, :-1].copy()),
            torch.from_numpy(tokens[:, 1:].copy()),
            torch.from_numpy(trained[:, 1:].copy()),
            torch.from_numpy(documents[:, :-1].copy()) if isolate else None,
            token_bytes,
        )

    def __len__(self) -> int:
        """Rows, B."""
        return self.inputs.shape[0]

    @property
    def width(self) -> int:
        """Positions of a row, T."""
        return self.inputs.shape[1]

    def checksum(self) -> int:
        """What these rows are recognised by: the sum of the crc32 of each row's inputs, so that
        several ranks' shares add up to that of the whole. Of a batch on the CPU."""
        rows = self.inputs.numpy().astype("<i4")
        return sum(zlib.crc32(row.tobytes()) for row in rows)

    def rows(self, start: int, stop: int) -> Batch:
        """Rows start..stop as views, with their own count and bytes. Cut on the CPU, then `to`.

        Raises:
            ValueError: the batch counts bytes, but not by row (it was not made by `build`).
        """
        if self.row_bytes is None and self.bytes:
            raise ValueError("a batch without row_bytes cannot be cut; make it with Batch.build")
        weights = self.weights[start:stop]
        row_bytes = None if self.row_bytes is None else self.row_bytes[start:stop]
        return Batch(
            self.inputs[start:stop],
            self.targets[start:stop],
            weights,
            None if self.documents is None else self.documents[start:stop],
            count=int(torch.count_nonzero(weights)),
            bytes=sum(row_bytes or ()),
            row_bytes=row_bytes,
        )

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`; to a GPU through pinned memory, without waiting."""
        device = torch.device(device)
        pin = device.type == "cuda" and self.inputs.device.type == "cpu"

        def move(tensor: Tensor) -> Tensor:
            return (tensor.pin_memory() if pin else tensor).to(device, non_blocking=True)

        return replace(
            self,
            inputs=move(self.inputs),
            targets=move(self.targets),
            weights=move(self.weights),
            documents=None if self.documents is None else move(self.documents),
        )
