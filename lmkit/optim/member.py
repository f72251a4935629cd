"""member: one optimizer of a set, and its state by parameter name.

By index, as torch stores it, two attributes of a model that change places would swap their moments
without a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from lmkit.errors import CheckpointError, ConfigError
from lmkit.optim.state import check_form, form, pack, unpack

NOT_SETTINGS = ("params", "param_names")  # keys of a torch group that hold parameters


@dataclass
class Member:
    """One optimizer of a set.

    Attributes:
        position: its place in the list of specs, which names its state.
        label: what metrics call it.
        names: parameter names, a list for each group of the optimizer.
        why: where its rates come from, in words.
        settings: what the groups held when they were made, as JSON.
    """

    position: int
    label: str
    optimizer: torch.optim.Optimizer
    names: list[list[str]]
    why: str = ""
    settings: list[dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        for group in self.optimizer.param_groups:
            if "lr" in group:
                group["initial_lr"] = group["lr"]
        self.settings = self.pack_settings({})

    @property
    def class_name(self) -> str:
        """The class's full name: another one's state would mean something else."""
        return f"{type(self.optimizer).__module__}.{type(self.optimizer).__qualname__}"

    def named(self) -> Iterator[tuple[str, Parameter]]:
        """Its parameters by name."""
        for names, group in zip(self.names, self.optimizer.param_groups, strict=True):
            yield from zip(names, group["params"], strict=True)

    def pack_settings(self, tensors: dict[str, Tensor]) -> list[dict[str, Any]]:
        """Rates, betas and the like of each group, as they are now."""
        return [
            {
                key: pack(value, f"{self.position}/group {i}/{key}", tensors)
                for key, value in group.items()
                if key not in NOT_SETTINGS
            }
            for i, group in enumerate(self.optimizer.param_groups)
        ]

    def pack_all(self, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """Everything as JSON; the tensors go into `tensors`."""
        state = self.optimizer.state
        known = {id(p) for _, p in self.named()}
        if strange := [key for key in state if id(key) not in known]:
            raise ConfigError(
                f"{self.class_name} keeps state for {strange[0]!r}, which is no parameter of it"
            )
        return {
            "class": self.class_name,
            "groups": [
                {"names": names, "made": made, "now": now}
                for names, made, now in zip(
                    self.names, self.settings, self.pack_settings(tensors), strict=True
                )
            ],
            "parameters": {
                name: {
                    **form(p),
                    "state": {
                        key: pack(value, f"{self.position}/{name}/{key}", tensors)
                        for key, value in state.get(p, {}).items()
                    },
                }
                for name, p in self.named()
            },
        }

    def load(self, packed: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
        """Take up what `pack_all` gave; CheckpointError if it is not of these parameters."""
        self.check(packed)
        groups = []
        for i, (group, saved) in enumerate(
            zip(self.optimizer.param_groups, packed["groups"], strict=True)
        ):
            now = {key: unpack(value, tensors) for key, value in saved["now"].items()}
            # what the author changed since then stays changed; all else goes on where it was
            made, makes = saved["made"], self.settings[i]
            goes_on = {key: now[key] for key in now if made.get(key) == makes.get(key)}
            groups.append({**group, **goes_on})
        states = {
            name: {key: unpack(value, tensors) for key, value in saved["state"].items()}
            for name, saved in packed["parameters"].items()
        }
        self._hand_over(groups, states)

    def check(self, packed: Mapping[str, Any]) -> None:
        """CheckpointError if `pack_all` gave it for other parameters than these."""
        if packed["class"] != self.class_name:
            raise CheckpointError(
                f"optimizer {self.position} was {packed['class']} and is {self.class_name}"
            )
        if len(packed["groups"]) != len(self.names):
            raise CheckpointError(
                f"{self.label} had {len(packed['groups'])} groups and has {len(self.names)}"
            )
        for here, saved in zip(self.names, packed["groups"], strict=True):
            if different := set(here) ^ set(saved["names"]):
                name = min(different)
                said = "no state was saved for" if name in here else "it has not, but had"
                raise CheckpointError(f"{self.label}: {said} {name}")
        for name, p in self.named():
            check_form(name, p, packed["parameters"][name])

    def _hand_over(self, groups: list[dict[str, Any]], states: dict[str, dict[str, Any]]) -> None:
        """Through torch's own door, which knows where each optimizer keeps its step counts."""
        order = [name for name, _ in self.named()]
        index = {name: i for i, name in enumerate(order)}
        for group, names in zip(groups, self.names, strict=True):
            group["params"] = [index[name] for name in names]
        numbered = {index[name]: state for name, state in states.items() if state}
        self.optimizer.load_state_dict({"state": numbered, "param_groups": groups})
        for name, p in self.named():  # that door casts state to the parameter's dtype
            for key, value in states[name].items():
                kept = self.optimizer.state[p][key]
                if isinstance(value, Tensor) and kept.dtype != value.dtype:
                    self.optimizer.state[p][key] = value.to(kept.device)
