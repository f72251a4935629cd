"""tokenizer: text to ids and back; knows nothing of models or batches."""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken

from lmkit.config.names import full_name
from lmkit.config.registry import build, resolve
from lmkit.errors import TokenizerError
from lmkit.text.bpe import write_ranks
from lmkit.text.chat import check_template
from lmkit.text.encodings import (
    BOS,
    CHAT_TOKENS,
    END_OF_TEXT,
    from_ranks,
    named,
    with_names,
    with_special,
)
from lmkit.text.panic import check_unicode, cut_spaces, told
from lmkit.text.stream_decoder import StreamDecoder
from lmkit.text.template import ChatTemplate, packaged
from lmkit.text.tokenizer_folder import (
    ABOUT_FILE,
    RANKS_FILE,
    read_about,
    refuse_outside,
    write_about,
)

GAVE_UP = "tiktoken gives up on this text"


class Tokenizer(ABC):
    """What a tokenizer is: `encode`, and the bytes of every id. All else follows.

    A subclass sets `bos`, `eos` (they may be equal) and `special_tokens`, and writes `encode` and
    `vocabulary`. If its constructor takes arguments, `settings` gives them back, so that a
    checkpoint can make the tokenizer again.
    """

    bos: int
    eos: int
    special_tokens: dict[str, int]

    @abstractmethod
    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """The ids of `text`, neither bos nor eos added.

        Args:
            allow_special: read a special token's name in the text as that token. Otherwise it is
                text like any other: a document cannot end itself.

        Raises:
            TokenizerError: the text is not valid Unicode (a lone surrogate).
        """

    @abstractmethod
    def vocabulary(self) -> Sequence[bytes]:
        """The bytes of each id, (vocab_size,); of a special token its name's."""

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON can hold them."""
        return {}

    @cached_property
    def chat(self) -> ChatTemplate:
        """How conversations are laid out; `plain` where special tokens for it are lacking."""
        return packaged()["nanochat" if self._has_chat_tokens else "plain"]

    @property
    def vocab_size(self) -> int:
        """Ids run from 0 to vocab_size - 1."""
        return len(self._tokens)

    def encode_array(self, text: str) -> np.ndarray:
        """The same ids as `encode(text)`: (n,) of any type of whole numbers; may be read-only."""
        return np.array(self.encode(text), dtype=np.int64)

    def encode_batch(self, texts: Sequence[str], threads: int | None = None) -> list[list[int]]:
        """`encode` of each text; with `threads` (default: one a core) where that is faster."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bytes that are not UTF-8 become U+FFFD.

        Raises:
            TokenizerError: an id outside 0..vocab_size - 1.
        """
        return b"".join(map(self._bytes_of, ids)).decode("utf-8", errors="replace")

    def stream_decoder(self) -> StreamDecoder:
        """A decoder that takes one id at a time."""
        return StreamDecoder(self._bytes_of)

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """UTF-8 bytes of each id, (vocab_size,) int32; 0 for special tokens, which are no text."""
        lengths = np.array([len(token) for token in self._tokens], dtype=np.int32)
        lengths[list(self.special_tokens.values())] = 0
        return lengths

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over all that decides which ids a text or a conversation gets."""
        plain = self.chat == packaged()["plain"]  # those of before there was another still fit
        return self._digest(self.settings(), *([] if plain else [self.chat.source]))

    @cached_property
    def text_fingerprint(self) -> str:
        """The same without the chat template: where two agree, an id is the same text to both."""
        settings = self.settings().items()
        return self._digest({key: value for key, value in settings if key != "chat"})

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` into the folder: the class, its settings, the fingerprint."""
        write_about(folder, full_name(type(self)), self.settings(), self.fingerprint)

    @property
    def _has_chat_tokens(self) -> bool:
        return self.special_tokens.keys() >= set(CHAT_TOKENS)

    def _digest(self, settings: dict[str, Any], *more: str) -> str:
        digest = hashlib.sha256()
        about = [full_name(type(self)), settings, self.special_tokens, self.bos, self.eos, *more]
        digest.update(json.dumps(about, sort_keys=True).encode())
        for token in self._tokens:
            digest.update(b"%d:%b" % (len(token), token))
        return digest.hexdigest()

    @cached_property
    def _tokens(self) -> list[bytes]:
        return list(self.vocabulary())

    def _bytes_of(self, token_id: int) -> bytes:
        if not 0 <= token_id < len(self._tokens):
            raise TokenizerError(f"{token_id} is no id of this vocabulary of {self.vocab_size}")
        return self._tokens[token_id]


class Byte(Tokenizer):
    """The 256 bytes, and 256 as the mark before and after a text. Needs no vocabulary."""

    bos = eos = 256

    def __init__(self) -> None:
        self.special_tokens = {END_OF_TEXT: self.eos}

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        check_unicode(text)
        first, *rest = text.split(END_OF_TEXT) if allow_special else [text]
        ids = list(first.encode())
        for part in rest:
            ids += [self.eos, *part.encode()]
        return ids

    def vocabulary(self) -> list[bytes]:
        return [*(bytes([byte]) for byte in range(256)), END_OF_TEXT.encode()]


class Tiktoken(Tokenizer):
    """A byte-pair vocabulary, encoded by tiktoken.

    bos and eos are both `<|bos|>` where the vocabulary has it, else `<|endoftext|>`.

    Args:
        name: `gpt2` (the default) or `python4k` (4,096 entries, trained on Python's own source),
            which travel in the package; or another of tiktoken's, downloaded at first use.
        ranks: a folder that `lmkit tokenizer train` wrote, which brings what the arguments below
            do not say; or a ranks file of one's own.
        pattern: the split pattern that those ranks were trained with, if not the default.
        special_tokens: names and ids to add; ranks of one's own that get no `<|bos|>` are followed
            by `<|endoftext|>`.
        chat: how conversations are laid out: a packaged template (`nanochat`, `plain`, `chatml`,
            `llama3`, `prompt_truth`), a `.jinja` file, or a template written out. Special tokens
            that it writes and the vocabulary lacks follow the last id. By default `nanochat` where
            there are its special tokens, else `plain`.
        folder: where a relative `ranks` or `chat` is looked up before the current folder.

    Raises:
        TokenizerError: an unknown name, a download that fails, useless ranks, a wrong template.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        ranks: str | Path | None = None,
        pattern: str | None = None,
        special_tokens: Mapping[str, int] | None = None,
        chat: str | None = None,
        folder: str | None = None,
    ) -> None:
        if ranks is not None:
            beside = Path(folder or "", ranks)
            ranks = beside if beside.exists() else Path(ranks)
            if ranks.is_dir():
                kept = read_about(ranks).spec.args
                ranks = ranks / RANKS_FILE
                pattern = pattern or kept.get("pattern")
                special_tokens = special_tokens or kept.get("special_tokens")
                chat = chat or kept.get("chat")
        template = None if chat is None else ChatTemplate.open(chat, folder)
        written = () if template is None else template.special_tokens
        if ranks is None:
            if pattern is not None:
                raise TokenizerError("'pattern' belongs to 'ranks', which is not given")
            encoding = with_special(named(name or "gpt2"), special_tokens or {})
        elif name is not None:
            raise TokenizerError("give either 'name' or 'ranks', not both")
        else:
            begun = BOS in written or BOS in (special_tokens or {})
            encoding = from_ranks(Path(ranks), pattern, special_tokens, end_of_text=not begun)
        self._use(with_names(encoding, written))
        if template is not None:
            self.chat = template
            check_template(self)

    @classmethod
    def of(cls, encoding: tiktoken.Encoding) -> Tiktoken:
        """Wrap a ready Encoding.

        Raises:
            TokenizerError: it has neither `<|bos|>` nor `<|endoftext|>`.
        """
        tokenizer = cls.__new__(cls)
        tokenizer._use(encoding)
        return tokenizer

    def _use(self, encoding: tiktoken.Encoding) -> None:
        self.encoding = encoding
        self.special_tokens = dict(encoding._special_tokens)
        begin = BOS if BOS in self.special_tokens else END_OF_TEXT
        if begin not in self.special_tokens:
            raise TokenizerError(f"the encoding {encoding.name!r} has no {END_OF_TEXT} or {BOS}")
        self.bos = self.eos = self.special_tokens[begin]

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        check_unicode(text)
        encode = self.encoding.encode_ordinary
        if allow_special:
            encode = partial(self.encoding.encode, allowed_special="all")
        first, *rest = cut_spaces(text)
        with told(GAVE_UP):
            ids = encode(first)
            for part in rest:
                ids += encode(part)
        return ids

    def encode_array(self, text: str) -> np.ndarray:
        # a list of ids is made inside the interpreter's lock: a tenth of the time, and the others
        # wait for it
        if type(self).encode is not Tiktoken.encode:  # a subclass has its own
            return super().encode_array(text)
        check_unicode(text)
        encode = partial(self.encoding.encode_to_numpy, disallowed_special=())
        with told(GAVE_UP):
            first, *rest = map(encode, cut_spaces(text))
        return np.concatenate([first, *rest]) if rest else first

    def encode_batch(self, texts: Sequence[str], threads: int | None = None) -> list[list[int]]:
        # tiktoken frees the interpreter while it encodes: 17.8 MB/s on 2 cores, 10.4 on one;
        # one by one, texts of 100 characters would be slower than without threads
        parts = [texts[at : at + 32] for at in range(0, len(texts), 32)]
        with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
            return [ids for part in pool.map(super().encode_batch, parts) for ids in part]

    def vocabulary(self) -> list[bytes]:
        tokens = [b""] * self.vocab_size  # some vocabularies have gaps
        for token, rank in self.encoding._mergeable_ranks.items():
            tokens[rank] = token
        for name, token_id in self.special_tokens.items():
            tokens[token_id] = name.encode()
        return tokens

    @property
    def vocab_size(self) -> int:
        return self.encoding.n_vocab

    @property
    def n_vocab(self) -> int:
        """`vocab_size` by tiktoken's name, for models written against an Encoding."""
        return self.encoding.n_vocab

    @property
    def eot_token(self) -> int:
        """`eos` by tiktoken's name."""
        return self.eos

    def settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {"ranks": RANKS_FILE, "pattern": self.encoding._pat_str}
        settings["special_tokens"] = self.special_tokens
        if self._has_chat_tokens or self.chat != packaged()["plain"]:
            settings["chat"] = self.chat.source  # not the name: a checkpoint needs no file
        return settings

    def save(self, folder: str | Path) -> None:
        write_ranks(self.encoding._mergeable_ranks, Path(folder, RANKS_FILE))
        super().save(folder)


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer that `save` wrote into the folder.

    Raises:
        TokenizerError: it is not there, or does not give the ids it gave when it was saved.
        ConfigError: its class is not found.
    """
    file = Path(folder, ABOUT_FILE)
    spec, fingerprint = read_about(folder)
    target = resolve(spec.path, at=file)
    if not (isinstance(target, type) and issubclass(target, Tokenizer)):
        raise TokenizerError(f"{spec.path} is not a Tokenizer", at=file)
    refuse_outside(folder, spec)
    tokenizer = build(spec, folder=str(folder))
    if tokenizer.fingerprint != fingerprint:
        raise TokenizerError(
            "the tokenizer is not the one that was saved: its ids would mean other text",
            hint="its vocabulary file or its class has changed",
            at=file,
        )
    return tokenizer
