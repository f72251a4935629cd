"""hub: the files of a data set on the Hugging Face hub; knows no documents.

huggingface_hub says which files there are, with size and sha256, and who asks; the bytes come by
`fetch`, so that a hub and any other server fail, wait and go on in the same way.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from glob import has_magic
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from lmkit.data.cache import cache_folder, publish_file
from lmkit.data.fetch import by_hand, check_file, fetch, is_offline, refuse_offline
from lmkit.data.files import extra
from lmkit.data.patience import PATIENCE, Passing, Patience, persevere, refused
from lmkit.data.remote import Place, Published
from lmkit.errors import DataError, did_you_mean

UNFINISHED = (".partial", ".lock", ".version")  # what `fetch` leaves beside a file


def endpoint() -> str:
    """`$HF_ENDPOINT`, or the hub itself."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


@dataclass(frozen=True)
class Listing:
    """What a data set has at one commit."""

    commit: str
    files: dict[str, Published]


class HubRepo(Place):
    """A data set on the hub, at one commit.

    Which commit a branch means is asked once, with the first file, and noted in the folder: all
    files are of one commit, and a start needs no network. To look again, delete the folder.

    Args:
        repo: such as `openai/gsm8k`.
        revision: a branch, a tag or a commit.
    """

    def __init__(self, repo: str, revision: str = "main", *, patience: Patience = PATIENCE) -> None:
        self.repo = repo
        self.revision = revision
        self.patience = patience
        self._listing: Listing | None = None

    @property
    def home(self) -> str:
        return f"{self.repo} of the Hugging Face hub"

    @property
    def folder(self) -> Path:
        plain = [part.replace("/", "--") for part in (self.repo, self.revision)]
        return cache_folder().joinpath("hub", *plain)

    def url(self, name: str, revision: str | None = None) -> str:
        """Where a file, or what a pattern means, can be seen with a browser."""
        at = quote(revision or self.revision, safe="")
        return f"{endpoint()}/datasets/{self.repo}/resolve/{at}/{name}"

    def names(self, patterns: Sequence[str], *, ask: bool = True) -> list[str] | None:
        if not any(map(has_magic, patterns)):
            return sorted(set(patterns))
        listing = self._noted()
        if listing is not None:
            there = sorted(listing.files)
        elif is_offline() and (ask or self._here()):
            there = self._here()
        elif ask:
            there = sorted(self._ask(by_hand(self.url(patterns[0]), self.folder)).files)
        else:
            return None
        found = [name for name in there if any(fnmatchcase(name, one) for one in patterns)]
        if not found:
            refuse_offline(self.url(patterns[0]), self.folder)
            hint = f"look at {endpoint()}/datasets/{self.repo}/tree/{self.revision}"
            raise DataError(f"no file matches {', '.join(patterns)}", hint=hint, at=self.repo)
        return found

    def get(self, name: str, *, progress: bool = True) -> Path:
        path = self.path(name)
        if path.is_file():
            size, sha256 = self.published(name)
            check_file(path, size=size, sha256=sha256)
            return path
        refuse_offline(self.url(name), path)
        listing = self._noted() or self._ask(by_hand(self.url(name), path))
        if name not in listing.files:
            hint = did_you_mean(name, listing.files) or f"to look again, delete {self.folder}"
            raise DataError(
                f"has no file {name!r} at {listing.commit[:12]}", hint=hint, at=self.repo
            )
        size, sha256 = listing.files[name]
        return fetch(
            self.url(name, listing.commit),
            path,
            size=size,
            sha256=sha256,
            headers=_authorization(),
            progress=progress,
            patience=self.patience,
        )

    def published(self, name: str) -> Published:
        listing = self._noted()
        return listing.files.get(name, Published()) if listing else Published()

    def digest(self, name: str) -> str:
        path = self.path(name)
        if not path.is_file() and self._noted() is None:
            refuse_offline(self.url(name), path)
            self._ask(by_hand(self.url(name), path))
        return super().digest(name)

    @property
    def _note(self) -> Path:
        return self.folder / ".listing.json"

    def _noted(self) -> Listing | None:
        """What was asked before, by this process or another."""
        if self._listing is None and self._note.is_file():
            try:
                noted = json.loads(self._note.read_text(encoding="utf-8"))
                files = {name: Published(*about) for name, about in noted["files"].items()}
                self._listing = Listing(noted["commit"], files)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                hint = "delete it: the hub is asked again"
                raise DataError("is no list of files", hint=hint, at=self._note) from error
        return self._listing

    def _ask(self, hint: str) -> Listing:
        """Ask the hub what there is, and note it."""

        def write(aside: Path) -> None:
            found = persevere(self._look, at=self.repo, hint=hint, patience=self.patience)
            aside.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

        publish_file(self._note, write)
        listing = self._noted()
        assert listing is not None  # it was written just now
        return listing

    def _look(self) -> dict[str, Any]:
        hub = extra("huggingface_hub")
        try:
            api = hub.HfApi(endpoint=endpoint(), library_name="lmkit")
            about = api.dataset_info(self.repo, revision=self.revision, files_metadata=True)
            files = {
                file.rfilename: Published(file.size, file.lfs.sha256 if file.lfs else None)
                for file in about.siblings or ()
            }
            found = {"commit": str(about.sha), "files": files}
        except Exception as error:  # the hub's, its client's and those of two HTTP libraries
            raise self._meaning(error) from error
        for name in files:
            if ".." in PurePosixPath(name).parts or name.startswith("/"):
                raise DataError(f"lists a file outside of it: {name!r}", at=self.repo)
        return found

    def _meaning(self, error: Exception) -> Passing | DataError:
        answer = getattr(error, "response", None)
        if answer is not None and answer.status_code in (401, 403, 404):
            return DataError(
                f"the hub has no such data set at {self.revision!r}, or you may not read it",
                hint="look at the name; for one that is private or asks to accept terms, do so "
                "and set HF_TOKEN",
                at=self.repo,
            )
        if answer is not None:
            return refused(answer.status_code, answer.headers.get("Retry-After"), at=self.repo)
        told = " ".join(str(_root(error)).split()) or type(error).__name__
        if isinstance(error, (ValueError, KeyError, TypeError, AttributeError)):
            return DataError(f"the hub cannot be asked: {told}", at=self.repo)
        return Passing(getattr(_root(error), "strerror", None) or told)

    def _here(self) -> list[str]:
        """What was put into the folder by hand."""
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        names = [path.relative_to(self.folder).as_posix() for path in files]
        return sorted(n for n in names if not n.startswith(".") and not n.endswith(UNFINISHED))


def _authorization() -> dict[str, str]:
    """The user's token, where there is one, as huggingface_hub finds it."""
    headers = extra("huggingface_hub.utils").build_hf_headers()
    return {name: text for name, text in headers.items() if name.lower() == "authorization"}


def _root(error: BaseException) -> BaseException:
    """The error that all began with."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return error
