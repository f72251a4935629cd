"""Keys of some heads stand one token late."""

from __future__ import annotations

import pytest
import torch

from lmkit.nn import Mask, attend, offset_keys


@pytest.mark.parametrize("late", [0, 1, 3])
def test_the_last_heads_have_the_key_of_the_token_before(late: int) -> None:
    k = torch.randn(2, 3, 5, 4)
    moved = offset_keys(k, late)
    assert torch.equal(moved[:, : 3 - late], k[:, : 3 - late])
    assert torch.equal(moved[:, 3 - late :, 1:], k[:, 3 - late :, :-1])
    assert not moved[:, 3 - late :, 0].any()


def test_a_document_does_not_begin_with_the_key_of_the_one_before() -> None:
    k = torch.randn(1, 2, 6, 4)
    documents = torch.tensor([[0, 0, 0, 1, 1, 2]])
    moved = offset_keys(k, 1, documents)
    for start, stop in ((0, 3), (3, 5), (5, 6)):
        assert torch.equal(moved[:, :, start:stop], offset_keys(k[:, :, start:stop], 1))


def test_one_layer_finds_what_followed_the_last_time() -> None:
    """Queries and keys that are the tokens' own vectors, values that name the tokens."""
    tokens = torch.tensor([3, 1, 4, 0, 2, 3])
    own = 50 * torch.eye(5)[tokens][None, None]
    read = attend(own, offset_keys(own, 1), own, mask=Mask.causal(6))
    assert read[0, 0, -1].argmax() == 1  # after the first 3
