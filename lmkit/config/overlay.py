"""overlay: one table laid over another, for ``extends`` and for overrides; knows no file.

What lies on top replaces what it excludes: another class drops the arguments of the old one,
and in a stage ``steps`` drops ``tokens`` and ``epochs``, and ``batch_size`` drops ``batch_tokens``.
A key without a value, ``steps:``, is taken away and replaces nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from lmkit.config.spec import Place, Table
from lmkit.errors import ConfigError, did_you_mean

_RIVALS = ({"steps", "tokens", "epochs"}, {"batch_tokens", "batch_size"})


def merge(base: Table, top: Table, path: tuple[str, ...] = ()) -> None:
    """Lay ``top`` over ``base``, in place: mappings key by key, lists of named items by name."""
    _drop_rivals(base, [key for key, value in top.items() if value is not None], path)
    for key, value in top.items():
        base[key] = _merged(base.get(key), value, (*path, key))
        base.places[key] = top.places.get(key, top.at)


def put(table: Table, keys: tuple[str, ...], value: Any, place: Place) -> None:
    """Set what stands at ``keys``, in place; an item of a list goes by its name or its index.

    Raises:
        ConfigError: the path leads through a number or a list item that is not there.
    """
    holder: Any = table
    for depth, key in enumerate(keys[:-1]):
        holder = _enter(holder, key, keys[: depth + 1], place)
    last = keys[-1]
    if isinstance(holder, list):
        holder[_index(holder, last, keys, place)] = value
        return
    if last == "class" and holder.get("class") != value:
        holder.clear()
    _drop_rivals(holder, [] if value is None else [last], keys[:-1])
    holder[last] = value
    holder.places[last] = place


def _merged(old: Any, new: Any, path: tuple[str, ...]) -> Any:
    if isinstance(old, Table) and isinstance(new, Table):
        if new.get("class", old.get("class")) != old.get("class"):
            return new
        merge(old, new, path)
        return old
    if _is_named(old) and _is_named(new):
        for item in new:
            same = [i for i, known in enumerate(old) if known["name"] == item["name"]]
            if same:
                old[same[0]] = _merged(old[same[0]], item, (*path, item["name"]))
            else:
                old.append(item)
        return old
    return new


def _enter(holder: Any, key: str, path: tuple[str, ...], place: Place) -> Any:
    """The table or list under ``key``, made if there is none yet."""
    slot: Any = _index(holder, key, path, place) if isinstance(holder, list) else key
    inner = holder[slot] if isinstance(holder, list) else holder.get(slot)
    if isinstance(inner, Table | list):
        return inner
    if inner is not None and not isinstance(inner, str):
        raise ConfigError(f"{'.'.join(path)} is {inner!r}, it has no parts", at=place)
    at = place if inner is None or isinstance(holder, list) else holder.places[slot]
    # a bare string is a spec: `model.width=3` gives an argument to `model: my_model.Mine`
    holder[slot] = Table({} if inner is None else {"class": inner}, at, {"class": at})
    return holder[slot]


def _index(items: list[Any], key: str, path: tuple[str, ...], place: Place) -> int:
    names = [item.get("name") if isinstance(item, Table) else None for item in items]
    if key in names:
        return names.index(key)
    if key.isdecimal() and int(key) < len(items):
        return int(key)
    known = [name for name in names if isinstance(name, str)]
    hint = did_you_mean(key, known) or f"it has {', '.join(known) or len(items)}"
    raise ConfigError(f"{'.'.join(path[:-1])} has no {key!r}", hint=hint, at=place)


def _is_named(value: Any) -> bool:
    if not isinstance(value, list) or not all(isinstance(item, Table) for item in value):
        return False
    names = [item.get("name") for item in value]
    return all(isinstance(name, str) for name in names) and len(set(names)) == len(names)


def _drop_rivals(table: Table, keys: Collection[str], path: tuple[str, ...]) -> None:
    if len(path) != 2 or path[0] != "stages":
        return
    for rivals in _RIVALS:
        if rivals.intersection(keys):
            for key in rivals.difference(keys):
                table.pop(key, None)
