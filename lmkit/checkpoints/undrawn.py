"""undrawn: a model made without drawing its random weights, because a file will fill them.

To draw 124 million normal numbers takes 1 s or more, three times as long as to hash and map them.
What is left out is what `normal_` and `uniform_` would do to an nn.Parameter, and what then scales
it, and no more: constants, buffers, and what is drawn by a generator of its own are as the
constructor makes them. (On the meta device nothing would be, and a buffer that is not saved, such
as a table of angles, would have to be made again by a model that never heard of it.
`trunc_normal_` looks at what it draws, and does draw.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Model = TypeVar("Model", bound=nn.Module)
DRAWS = (
    Tensor.normal_,
    Tensor.uniform_,
    nn.init.normal_,
    nn.init.uniform_,
    nn.init.kaiming_uniform_,
)
SCALES = (Tensor.mul_, Tensor.div_, Tensor.add_, Tensor.sub_, Tensor.clamp_)


class _Undrawn(TorchFunctionMode):
    """Leaves parameters as they are where they would be drawn.

    Attributes:
        left: by their id; held, so that no other object has it.
        unwritten: the ids of those among them that nothing else has been written to.
    """

    def __init__(self) -> None:
        super().__init__()
        self.left: dict[int, nn.Parameter] = {}
        self.unwritten: set[int] = set()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        target = args[0] if args else kwargs.get("tensor")
        drawn = func in DRAWS and kwargs.get("generator") is None
        if isinstance(target, nn.Parameter):
            if drawn:
                self.left[id(target)] = target
                self.unwritten.add(id(target))
            elif func.__name__.endswith("_") and func.__name__ != "__get__" and func not in SCALES:
                self.unwritten.discard(
                    id(target)
                )  # zero_, copy_ and the like: it holds numbers now
            if drawn or (func in SCALES and id(target) in self.unwritten):
                return target
        return func(*args, **kwargs)


def make_undrawn(make: Callable[[], Model]) -> Model:
    """What `make` makes, its random parameters holding whatever lay in their memory.

    Every one of those is in the model's state_dict, to be loaded; of a model whose state_dict
    leaves one out, or whose constructor cannot work with such numbers, all are drawn.
    """
    mode = _Undrawn()
    try:
        with mode:
            model = make()
    except Exception:  # whatever a constructor says that looks at its numbers; if they were not to
        return make()  # blame, it says so once more
    saved = {t.data_ptr() for t in model.state_dict().values() if isinstance(t, Tensor)}
    left = [parameter for parameter in model.parameters() if id(parameter) in mode.left]
    return model if all(parameter.data_ptr() in saved for parameter in left) else make()
