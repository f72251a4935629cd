"""What holds for every test: no deadlines on a busy machine, and a cache of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("lmkit", deadline=None, max_examples=50)
settings.load_profile("lmkit")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tokenised text goes to a temporary folder, not to the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
