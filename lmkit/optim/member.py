"""member: one optimizer of a set, and its state by parameter name.

By index, as torch stores it, two attributes of a model that change places would swap their moments
without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from lmkit.config.names import full_name
from lmkit.errors import CheckpointError, ConfigError
from lmkit.optim.parts import as_part, is_part, piece_of
from lmkit.optim.state import check_form, form, pack, unpack

# keys of a torch group that hold parameters, or say how ranks share the work
NOT_SETTINGS = ("params", "param_names", "shard")


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
        return full_name(type(self.optimizer))

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
        known = {id(p) for _, p in self.named()}
        if strange := [key for key in self.optimizer.state if id(key) not in known]:
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
                name: {**form(p), "state": self.pack_state(name, p, tensors)}
                for name, p in self.named()
            },
        }

    def pack_state(self, name: str, p: Parameter, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """What is remembered of one parameter, as JSON; the tensors go into `tensors`."""
        return {
            key: pack(value, f"{self.position}/{name}/{key}", tensors)
            for key, value in self.optimizer.state.get(p, {}).items()
        }

    def load(
        self,
        packed: Mapping[str, Any],
        tensors: dict[str, Tensor],
        own: Callable[[Parameter], bool] = lambda p: True,
    ) -> None:
        """Take up copies of what `pack_all` gave, out of `tensors`.

        Args:
            own: whether this rank keeps the state of a parameter.

        Raises:
            CheckpointError: it is not of these parameters.
        """
        self.check(packed)
        groups = []
        for i, (group, saved) in enumerate(
            zip(self.optimizer.param_groups, packed["groups"], strict=True)
        ):
            now = {key: _copy(unpack(value, tensors)) for key, value in saved["now"].items()}
            # what the author changed since then stays changed; all else goes on where it was
            made, makes = saved["made"], self.settings[i]
            goes_on = {key: now[key] for key in now if made.get(key) == makes.get(key)}
            groups.append({**group, **goes_on})
        states: dict[str, dict[str, Any]] = {}
        # what has a parameter's shape is cut as that is, but for what the optimizer names
        uncut = getattr(self.optimizer, "uncut", ())
        for name, p in self.named():
            saved = packed["parameters"][name]["state"]
            state = {key: unpack(value, tensors) for key, value in saved.items()}
            states[name] = {
                key: _copy(v, None if key in uncut else p) for key, v in state.items() if own(p)
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


def _copy(value: Any, p: Parameter | None = None) -> Any:
    """Of a state value; cut as the parameter that it is of, if it has that parameter's shape."""
    if isinstance(value, dict):
        return {key: _copy(item, p) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copy(item, p) for item in value)
    if not isinstance(value, Tensor):
        return value
    if p is not None and is_part(p) and value.shape == p.shape:
        return as_part(piece_of(value, p).to(p.device, copy=True), p)
    return value.clone()
