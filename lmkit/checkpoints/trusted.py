"""trusted: imports modules from just the files that are named; no folder is searched for them.

A checkpoint's code/ on the search path would offer everything that lies in it: a `json.py`, or in
__pycache__ the bytecode of another source than the one that was read. So each module has its file,
its source is compiled anew, and nothing is written beside it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType

from lmkit.config.names import forget, give_way, load_module


def run_copies(folder: Path, files: Mapping[str, str]) -> None:
    """Import modules from files below `folder`, {module: file}, anew if they were imported before.

    Raises:
        PluginError: one fails while importing.
    """
    finder = _Copies({module: folder / file for module, file in files.items()})
    for top in {module.partition(".")[0] for module in files}:
        forget(top)
    give_way(folder)
    sys.meta_path.insert(0, finder)
    try:
        for module in files:
            load_module(module)
    finally:
        sys.meta_path.remove(finder)


class _Copies(MetaPathFinder):
    """Finds the modules of one checkpoint; of their packages only what is named."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self.files = files

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if file := self.files.get(name):
            spec = spec_from_file_location(name, file, loader=_Source(name, str(file)))
            if spec is not None and spec.submodule_search_locations:
                spec.submodule_search_locations.clear()  # its folder is not searched
            return spec
        if any(module.startswith(f"{name}.") for module in self.files):
            return ModuleSpec(name, None, is_package=True)  # a package without a file of its own
        return None


class _Source(SourceFileLoader):
    """Compiles the source; bytecode is neither read nor written."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)
