"""recording: a model keeps the arguments it was made with, so that it can be made again."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from lmkit.errors import ModelError, did_you_mean


def recorded(init: Callable[..., None]) -> Callable[..., None]:
    """A constructor that leaves its arguments, defaults included, in `self.init_kwargs`.

    The tokenizer is left out: a checkpoint stores it on its own. Where constructors call each other
    the outermost, that of the class which was named, ends last and so has the last word.

    It raises ModelError where it sets a module or a parameter before it has called that of the
    base.
    """
    signature = inspect.signature(init)

    @functools.wraps(init)
    def record(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            init(self, *args, **kwargs)
        except AttributeError as error:
            if "_modules" in vars(self):
                raise
            raise ModelError(
                f"{type(self).__qualname__}.__init__: {error}",
                hint="call super().__init__(tokenizer=tokenizer, max_len=...) first",
            ) from error
        call = signature.bind(self, *args, **kwargs)
        call.apply_defaults()
        self.init_kwargs = _named(call)

    return record


def _named(call: inspect.BoundArguments) -> dict[str, Any]:
    named = dict(list(call.arguments.items())[1:])
    for name, parameter in call.signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            named.update(named.pop(name))
    named.pop("tokenizer", None)
    return named


def refuse_unknown(model_class: type, names: Iterable[str]) -> None:
    """A keyword that fell through to the base is one that no constructor declares, so nobody reads.

    Raises ModelError with the nearest declared name.
    """
    inits = [vars(base)["__init__"] for base in model_class.__mro__ if "__init__" in vars(base)]
    declared = {name for init in inits for name in inspect.signature(init).parameters}
    for name in names:
        if name not in declared:
            raise ModelError(
                f"{model_class.__qualname__} takes no '{name}'", hint=did_you_mean(name, declared)
            )
