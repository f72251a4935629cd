"""What holds for every test: one thread, no deadlines on a busy machine, a cache of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Tiny models in one process or several: a second thread would mostly wait for a core. Set before
# torch is imported, and inherited by every child.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("lmkit", deadline=None, max_examples=50)
settings.load_profile("lmkit")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tokenised text goes to a temporary folder, not to the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
