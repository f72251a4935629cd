"""selection: which parameters a list of words in a YAML means; changes none of them.

A word is the name of a model's group (`matrices`), a parameter's name with wildcards
(`blocks.*.norm.weight`), or `tag:NAME`: the parameters whose attribute NAME is true, as an author
sets it with `self.table.weight.secondary_optimizer = True`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch.nn import Parameter

from lmkit.config.registry import Spec
from lmkit.errors import ConfigError, did_you_mean

NamedGroups = Mapping[str, Iterable[tuple[str, Parameter]]]
TAG = "tag:"


def select(words: object, groups: NamedGroups, at: object = None) -> dict[str, Parameter]:
    """The parameters that `words` (one or a list) mean, by name, in the model's order.

    Raises:
        ConfigError: a word means no parameter of this model; the nearest one that does is named.
    """
    chosen = {name for word in _listed(words, at) for name in _meant(word, groups, at)}
    return {name: p for name, p in by_name(groups).items() if name in chosen}


def by_name(groups: NamedGroups) -> dict[str, Parameter]:
    """All parameters of all groups; ConfigError if one is there twice."""
    found: dict[str, Parameter] = {}
    homes: dict[int, str] = {}
    for group, named in groups.items():
        for name, p in named:
            if name in found or id(p) in homes:
                raise ConfigError(
                    f"parameter {name} is in group {homes.get(id(p), group)!r} and in {group!r}",
                    hint="param_groups() gives every parameter once",
                )
            found[name], homes[id(p)] = p, group
    return found


def share_out(groups: NamedGroups, specs: Sequence[Spec]) -> list[dict[str, Parameter]]:
    """Each spec's trainable parameters, by name: first come; one without `params` gets the rest.

    Raises:
        ConfigError: a trainable parameter stays without an optimizer, or an optimizer that names
            some gets none.
    """
    free = {name: p for name, p in by_name(groups).items() if p.requires_grad}
    if not free:
        raise ConfigError("nothing to train: every parameter is frozen")
    shares: list[dict[str, Parameter]] = [{} for _ in specs]
    takes_rest = None
    for i, spec in enumerate(specs):
        if spec.args.get("params") is None:
            if takes_rest is not None:
                raise ConfigError(
                    f"{spec.path} and {specs[takes_rest].path} both take all the rest",
                    hint="give one of them params:",
                    at=spec.at,
                )
            takes_rest = i
            continue
        meant = select(spec.args["params"], groups, spec.places.get("params", spec.at))
        shares[i] = {name: free.pop(name) for name in meant if name in free}
        taken = [name for name, p in meant.items() if p.requires_grad]
        if taken and not shares[i]:
            raise ConfigError(
                f"{spec.path} gets no parameter: an optimizer before it has {taken[0]}",
                hint="the first that names a parameter takes it",
                at=spec.places.get("params", spec.at),
            )
    if takes_rest is not None:
        shares[takes_rest] = free
    elif free:
        more = f" and {len(free) - 3} more" if len(free) > 3 else ""
        raise ConfigError(
            f"no optimizer takes {', '.join(list(free)[:3])}{more}",
            hint="an optimizer without params: takes all the rest",
            at=specs[-1].at if specs else None,
        )
    return shares


def _listed(words: object, at: object) -> list[str]:
    listed = [words] if isinstance(words, str) else words
    if not isinstance(listed, list | tuple) or not all(isinstance(word, str) for word in listed):
        raise ConfigError(
            f"parameters are named by a list of words, not {words!r}",
            hint="groups, names with * or tag:NAME",
            at=at,
        )
    return list(listed)


def _meant(word: str, groups: NamedGroups, at: object) -> list[str]:
    if word in groups:  # an empty group is no mistake: a tied head leaves one behind
        return [name for name, _ in groups[word]]
    parameters = by_name(groups)
    if word.startswith(TAG):
        tag = word[len(TAG) :]
        found = [name for name, p in parameters.items() if getattr(p, tag, False)]
        hint = f"an author sets it: parameter.{tag} = True"
    else:
        found = [name for name in parameters if fnmatchcase(name, word)]
        if any(name.startswith(f"{word}.") for name in parameters):
            hint = f"did you mean '{word}.*'?"
        else:
            near = did_you_mean(word, [*groups, *parameters])
            hint = near or f"groups of this model: {', '.join(groups)}"
    if not found:
        raise ConfigError(f"no parameter is meant by {word!r}", hint=hint, at=at)
    return found
