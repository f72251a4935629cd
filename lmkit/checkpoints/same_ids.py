"""same_ids: whether ids mean to a model what they meant to saved weights; knows no weights."""

from __future__ import annotations

from pathlib import Path

from lmkit.errors import CheckpointError
from lmkit.text import Tokenizer


def refuse_other_ids(
    saved: Tokenizer | None, own: Tokenizer | None, folder: Path, *, same_chat: bool = False
) -> None:
    """Compare a checkpoint's tokenizer with a model's; where one has none, nothing is compared.

    Conversations may be laid out otherwise: a model can be taught another chat template.

    Args:
        folder: the checkpoint's.
        same_chat: refuse another chat template too.

    Raises:
        CheckpointError: an id would mean other text.
    """
    if saved is None or own is None:
        return
    if saved.text_fingerprint != own.text_fingerprint:
        raise CheckpointError(
            f"its tokenizer ({saved.vocab_size:,} ids) is not the experiment's "
            f"({own.vocab_size:,}): the same id would mean other text",
            hint=f"tokenizer: {{class: lmkit.text.tokenizer.Tiktoken, "
            f"ranks: {folder / 'tokenizer'}}}",
            at=folder,
        )
    if same_chat and saved.chat != own.chat:
        raise CheckpointError(
            f"its chat template is not the experiment's, {own.chat.at}",
            hint="put the template back, or start another run from this with init_from",
            at=folder,
        )
