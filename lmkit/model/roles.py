"""roles: which part of a model a parameter is, told by its shape and by where it stands."""

from __future__ import annotations

from torch import Tensor, nn

Named = tuple[str, nn.Parameter]
ROLES = ("matrices", "embeddings", "head", "scalars")


def group_by_role(model: nn.Module, vocab_size: int | None) -> dict[str, list[Named]]:
    """Every parameter once, with its name, under one of ROLES.

    embeddings: the weights of `nn.Embedding`s and whatever has "embed" in its name.
    head: the weight of the last `nn.Linear` that is as wide as the vocabulary, also when an
        embedding shares it: it multiplies for every token, so it counts as a head.
    scalars: what has fewer than two dimensions (gains, biases).
    matrices: all else.

    `vocab_size` is the tokenizer's; without one the largest embedding tells it.
    """
    embedded = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    head = _head(model, vocab_size)
    groups: dict[str, list[Named]] = {role: [] for role in ROLES}
    for name, parameter in model.named_parameters():
        if parameter is head:
            role = "head"
        elif parameter.ndim < 2:
            role = "scalars"
        elif id(parameter) in embedded or "embed" in name.lower():
            role = "embeddings"
        else:
            role = "matrices"
        groups[role].append((name, parameter))
    return groups


def token_tables(model: nn.Module, vocab_size: int | None, max_len: int) -> list[str]:
    """The embeddings, by name, that have a row a token, perhaps some more to fill up; a head that
    shares one is none of them, nor are positions. Without a tokenizer none is known."""
    if vocab_size is None:
        return []
    return [
        name
        for name, parameter in group_by_role(model, vocab_size)["embeddings"]
        if vocab_size <= parameter.shape[0] <= 1.25 * vocab_size and parameter.shape[0] != max_len
    ]


def _head(model: nn.Module, vocab_size: int | None) -> Tensor | None:
    embeddings = [m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)]
    widths = {max(embeddings, default=None), vocab_size}
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    heads = [linear.weight for linear in linears if linear.out_features in widths]
    return heads[-1] if heads else None
