"""What comes from a file is not drawn before; all else is as the constructor makes it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lmkit.checkpoints.undrawn import make_undrawn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.head = nn.Linear(4, 6)
        self.head.weight = self.embedding.weight
        nn.init.normal_(self.head.bias, std=0.02)
        self.scale = nn.Parameter(torch.empty(3))
        nn.init.normal_(self.scale)
        nn.init.ones_(self.scale)
        with torch.no_grad():
            self.scale.mul_(2)
        self.scaled = nn.Parameter(torch.full((5,), 7.0))
        nn.init.xavier_uniform_(self.scaled.view(1, 5))  # a view is no parameter: it is drawn
        nn.init.normal_(self.scaled)
        with torch.no_grad():
            self.scaled.mul_(0.5).add_(1)
        seeded = torch.Generator().manual_seed(3)
        self.projection = nn.Parameter(torch.empty(4))
        self.projection.data.normal_()
        with torch.no_grad():
            self.projection.normal_(generator=seeded)
        angles = torch.arange(4.0) * self.scale.detach().sum()
        self.register_buffer("angles", angles, persistent=False)
        self.register_buffer("noise", torch.empty(4).uniform_(), persistent=False)


def test_only_random_parameters_are_left_as_they_are() -> None:
    torch.manual_seed(0)
    net = make_undrawn(Net)
    torch.manual_seed(0)
    # of all the draws only those of what is no parameter are left
    scaled = nn.init.xavier_uniform_(torch.empty(1, 5))
    torch.empty(4).normal_()
    assert torch.equal(net.noise, torch.empty(4).uniform_())
    assert net.scale.tolist() == [2.0, 2.0, 2.0]
    assert net.angles.tolist() == [0.0, 6.0, 12.0, 18.0]
    seeded = torch.empty(4).normal_(generator=torch.Generator().manual_seed(3))
    assert torch.equal(net.projection, seeded)
    assert torch.equal(net.scaled, scaled.flatten())  # what scales a draw is left out with it
    assert net.head.weight is net.embedding.weight
    assert all(type(p) is nn.Parameter and p.requires_grad for p in net.parameters())


def test_what_a_state_dict_leaves_out_is_drawn() -> None:
    class Partial(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kept = nn.Parameter(torch.full((9,), 7.0))
            self.frozen = nn.Parameter(torch.full((9,), 7.0))
            nn.init.normal_(self.kept)
            nn.init.normal_(self.frozen)

        def state_dict(self, *args: object, **kwargs: object) -> dict[str, torch.Tensor]:  # type: ignore[override]
            return {"kept": self.kept.detach()}

    assert not bool((make_undrawn(Partial).frozen == 7).any())


def test_a_constructor_that_looks_at_its_numbers_gets_some() -> None:
    class Careful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.full((9,), torch.nan))
            nn.init.uniform_(self.weight)
            if self.weight.isnan().any():
                raise ArithmeticError("not a number")

    assert bool((make_undrawn(Careful).weight < 1).all())


def test_a_draw_that_looks_at_its_numbers_comes_to_an_end() -> None:
    class Clipped(nn.Module):
        def __init__(self, start: float) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.full((9,), start))
            nn.init.trunc_normal_(self.weight, std=0.02)

    for start in (7.0, torch.nan, torch.inf):
        make_undrawn(lambda start=start: Clipped(start))  # type: ignore[misc]


def test_a_constructors_own_error_is_told() -> None:
    def make() -> nn.Module:
        raise ValueError("no such width")

    with pytest.raises(ValueError, match="no such width"):
        make_undrawn(make)


def test_afterwards_all_is_drawn_again() -> None:
    make_undrawn(Net)
    weight = nn.Parameter(torch.full((9,), 7.0))
    nn.init.normal_(weight)
    assert not bool((weight == 7).any())
