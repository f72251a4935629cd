"""fetch: a file from the network to its place, whole or not at all; knows no data sets.

A broken transfer is gone on with where it broke, in the same process or at the next start. Proxies
are those of the environment (`https_proxy`, `no_proxy`), as urllib reads them.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from lmkit.data.bar import progress_bar
from lmkit.data.cache import file_digest, publish_file
from lmkit.data.patience import PATIENCE, Passing, Patience, persevere, refused
from lmkit.errors import DataError

BLOCK = 2**20  # bytes read in one go, at most
SAFE = "/%:@!$&'()*+,;=~?"  # left as they are in an address: it may be quoted already
TRUE = {"1", "ON", "YES", "TRUE"}  # what huggingface_hub takes for it


def fetch(
    url: str,
    to: str | Path,
    *,
    sha256: str | None = None,
    size: int | None = None,
    headers: Mapping[str, str] | None = None,
    progress: bool = True,
    patience: Patience = PATIENCE,
) -> Path:
    """The file `to`, downloaded if it is not there; of several processes one does it.

    Args:
        url: http or https; a `user:password@` in it is sent as such.
        to: where it lies, or will lie.
        sha256: of the whole file, checked if it is given; the file that is there already too.
        size: in bytes, likewise.
        headers: sent to the url's own host only, not to where it redirects.
        progress: show a bar on stderr, and that another process is waited for.

    Raises:
        DataError: it cannot be had, or is another file than the one that is wanted. Says what to
            download by hand, and where to put it; no password and no query of the url is shown.
        StorageError: the disk is full, or the folder cannot be written.
    """
    to = Path(to)
    if to.is_file():
        check_file(to, sha256=sha256, size=size)
        return to
    refuse_offline(url, to)

    def write(aside: Path) -> None:
        wanted = sha256.lower() if sha256 else None
        transfer = _Transfer(url, aside, wanted, size, headers or {}, patience.silence, progress)
        persevere(transfer.attempt, at=shown(url), hint=by_hand(url, to), patience=patience)

    return publish_file(to, write, quiet=not progress)


def check_file(path: Path, *, sha256: str | None, size: int | None = None) -> None:
    """Compare a file that is there with what was published.

    Raises:
        DataError: it is another one.
    """
    actual = path.stat().st_size
    if size is not None and actual != size:
        what = f"has {actual:,} bytes, the published file {size:,}"
    elif sha256 is not None and file_digest(path) != sha256.lower():
        what = f"has the sha256 {file_digest(path)[:12]}..., the published file {sha256[:12]}..."
    else:
        return
    raise DataError(what, hint="delete it: it is downloaded again", at=path)


def is_offline() -> bool:
    """True if `HF_HUB_OFFLINE` forbids to ask the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in TRUE


def refuse_offline(url: str, to: Path) -> None:
    """Raise what is to be done by hand if the network is forbidden."""
    if is_offline():
        what = "not on this disk, and HF_HUB_OFFLINE is set"
        raise DataError(what, hint=by_hand(url, to), at=shown(url))


def by_hand(url: str, to: Path) -> str:
    """What to do where there is no network."""
    return f"download it by hand: {shown(url)} -> {to}"


def shown(url: str) -> str:
    """The url without what may be secret in it: user, password and query."""
    scheme, mark, rest = url.rpartition("://")
    place, query, _ = rest.partition("#")[0].partition("?")
    host, slash, path = place.partition("/")
    return f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path}{'?...' if query else ''}"


@dataclass
class _Transfer:
    """One download, over as many connections as it takes.

    Beside the unfinished file stands the server's name for its version (ETag, or the date), by
    which the server says whether what is asked for next is the rest of the same file.
    """

    url: str
    aside: Path
    sha256: str | None
    size: int | None
    headers: Mapping[str, str]
    silence: float
    progress: bool
    furthest: int = 0

    @property
    def version(self) -> Path:
        """Where the version is written down."""
        return self.aside.with_name(f"{self.aside.name}.version")

    def attempt(self) -> None:
        """Get what is missing, and check the whole.

        Raises:
            Passing: it may go better at the next try.
            DataError: it will not.
        """
        begun = self._begun()
        self.furthest = max(self.furthest, begun)
        try:
            if not begun or begun != self.size:
                begun = self._transfer(begun)
            self._check(resumed=begun > 0)
        except Passing as trouble:
            trouble.moved = self._here() > self.furthest
            self.furthest = max(self.furthest, self._here())
            raise
        self.version.unlink(missing_ok=True)

    def _here(self) -> int:
        return self.aside.stat().st_size if self.aside.exists() else 0

    def _begun(self) -> int:
        """Bytes of an earlier try to go on with; what cannot be gone on with is thrown away."""
        begun = self._here()
        known = self.sha256 or self.version.exists()
        if begun and (not known or (self.size is not None and begun > self.size)):
            self._discard()
            return 0
        return begun

    def _transfer(self, begun: int) -> int:
        """Get the rest, or the whole; gives how much of an earlier try was kept."""
        with self._asking(begun):
            answer = self._ask(begun)
        with answer:
            begun = self._kept(answer, begun)
            total = self.size if answer.length is None else begun + answer.length
            if self.size is not None and total != self.size:
                self._discard()
                raise self._other(f"{total:,} bytes", f"{self.size:,}")
            self._receive(answer, begun, total)
        return begun

    def _ask(self, begun: int) -> Any:
        target, secret = _address(self.url)
        request = urllib.request.Request(target)
        request.add_header("User-Agent", "lmkit")
        request.add_header("Accept-Encoding", "identity")
        for name, value in {**secret, **self.headers}.items():
            request.add_unredirected_header(name, value)
        if begun:
            request.add_header("Range", f"bytes={begun}-")
            if self.version.exists():
                request.add_header("If-Range", self.version.read_text())
        # an opener of its own: that of urlopen keeps the proxies of the first call
        return urllib.request.build_opener().open(request, timeout=self.silence)

    def _kept(self, answer: Any, begun: int) -> int:
        """`begun` if the answer goes on from there, 0 if it is the whole file."""
        if answer.status == http.HTTPStatus.PARTIAL_CONTENT:
            if str(answer.headers["Content-Range"]).startswith(f"bytes {begun}-"):
                return begun
            self._discard()
            raise Passing("the server sent another part than the one asked for")
        self._discard()
        etag = answer.headers["ETag"] or "W/"
        version = answer.headers["Last-Modified"] if etag.startswith("W/") else etag
        if version:
            self.version.write_text(version)
        return 0

    def _receive(self, answer: Any, begun: int, total: int | None) -> None:
        name = self.aside.name.removesuffix(".partial")
        bar = progress_bar(name, total, "B", begun=begun, shown=self.progress)
        with self.aside.open("ab") as file, bar:
            while block := self._read(answer):
                file.write(block)
                bar.update(len(block))
        here = self._here()
        if total is not None and here < total:
            raise Passing(f"the connection ended after {here:,} of {total:,} bytes")

    def _read(self, answer: Any) -> bytes:
        with self._asking(0):
            block = answer.read1(BLOCK)
        return block

    def _check(self, resumed: bool) -> None:
        here = self._here()
        if self.size is not None and here != self.size:
            self._discard()
            raise self._other(f"{here:,} bytes", f"{self.size:,}")
        digest = hashlib.sha256()
        if self.sha256 is not None:
            with self.aside.open("rb") as file:
                while block := file.read(BLOCK):
                    digest.update(block)
        if self.sha256 is None or self.sha256 == digest.hexdigest():
            return
        self._discard()
        if resumed:
            raise Passing("the parts that were downloaded are not of one file")
        raise self._other(f"the sha256 {digest.hexdigest()[:12]}...", f"{self.sha256[:12]}...")

    def _other(self, has: str, wanted: str) -> DataError:
        what = f"the server's file has {has}, the published one {wanted}"
        return DataError(what, hint="it was changed there, or on the way", at=shown(self.url))

    def _discard(self) -> None:
        self.aside.unlink(missing_ok=True)
        self.version.unlink(missing_ok=True)

    @contextmanager
    def _asking(self, begun: int) -> Iterator[None]:
        """Sort what goes wrong on the network into what may pass and what will not."""
        try:
            yield
        except urllib.error.HTTPError as error:
            error.close()
            if begun and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                self._discard()
                raise Passing("the server's file is shorter than what was here of it") from None
            asked_wait = error.headers["Retry-After"]
            raise refused(error.code, asked_wait, at=shown(self.url)) from None
        except http.client.InvalidURL:
            raise DataError("not an address that can be asked for", at=shown(self.url)) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)  # a URLError wraps what was wrong
            if isinstance(reason, ssl.SSLCertVerificationError):
                what = f"its certificate is not good: {reason.verify_message}"
                raise DataError(what, at=shown(self.url)) from error
            raise Passing(_told(reason)) from error


def _address(url: str) -> tuple[str, dict[str, str]]:
    """The url without a name and a password, and the header that says them."""
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError
        _ = parts.port  # raises if it is no number
    except ValueError:
        raise DataError(
            "not the address of a file", hint="it begins with https://", at=shown(url)
        ) from None
    secret = {}
    if parts.username is not None:
        said = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        secret["Authorization"] = f"Basic {base64.b64encode(said.encode()).decode()}"
    clean = parts._replace(
        netloc=parts.netloc.rpartition("@")[2],
        path=quote(parts.path, safe=SAFE),
        query=quote(parts.query, safe=SAFE),
        fragment="",
    )
    return clean.geturl(), secret


def _told(reason: object) -> str:
    """An error of the network in a few words."""
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    if isinstance(reason, http.client.IncompleteRead):
        return "the connection ended too early"
    text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return " ".join(text.split())
