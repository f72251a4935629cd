"""registry: from a spec to the object it names; the face of everything about specs.

``resolve`` opens a name, ``check`` compares a spec with the class's signature, ``build`` makes
the object. The constructor's signature is the schema: there is no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmkit.config.coerce import bind, check, coerce
from lmkit.config.names import add_search_folder, load_module, plugin_error, register, resolve
from lmkit.config.signature import Parameter, parameters
from lmkit.config.spec import Place, Spec, blame
from lmkit.errors import ConfigError, LMKitError

__all__ = [
    "Parameter",
    "Place",
    "Spec",
    "add_search_folder",
    "blame",
    "build",
    "check",
    "coerce",
    "load_module",
    "parameters",
    "register",
    "resolve",
]


def build(spec: Spec | str | Mapping[str, Any], **offered: Any) -> Any:
    """Make the object that a spec names, and those named inside it.

    The whole tree is checked before the first constructor runs.

    Args:
        spec: ``"module.Class"``, ``{class: module.Class, key: value}`` or a Spec.
        offered: runtime objects (``tokenizer=``, ``steps=``), passed to every constructor that
            declares them by name and is not given them by the spec; one that merely takes
            ``**kwargs`` gets none.

    Raises:
        ConfigError: a name or a key is wrong.
        PluginError: a constructor fails; holds its traceback. lmkit's own errors pass as they
            are, with the line of the spec; a full disk or memory is no fault of the class.
    """
    checked = Spec.of(spec)
    check(checked, offered)
    return _construct(checked, offered)


def _construct(spec: Spec, offered: Mapping[str, Any]) -> Any:
    target = resolve(spec.path, spec.at)
    arguments = bind(spec, offered, lambda inner: _construct(inner, offered))
    declared = [parameter.name for parameter in parameters(target) if not parameter.inherited]
    for name in declared:
        if name in offered:
            arguments.setdefault(name, offered[name])
    try:
        with blame(spec.at, spec.places):
            return target(**arguments)
    except (LMKitError, OSError, MemoryError):
        raise
    except (Exception, SystemExit) as error:  # a class does not end the program, with 0 at that
        said = f"{spec.path} refuses: {type(error).__name__}: {error}"
        if _is_torch(target):  # a value out of its range: no plug-in whose code could be mended
            raise ConfigError(said, hint=f"see lmkit describe {spec.path}", at=spec.at) from error
        raise plugin_error(said, error, spec.at) from error


def _is_torch(target: Any) -> bool:
    return str(getattr(target, "__module__", "")).partition(".")[0] == "torch"
