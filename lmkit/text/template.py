"""template: messages laid out by a Jinja template, as pieces; knows no tokenizer.

A template is written against Hugging Face's names: `messages` (each with `role`, `content`, and
`parts` with `type` and `text`), `add_generation_prompt`, `bos_token`, `eos_token`,
`raise_exception`. What is trained stands between `{% generation %}` and `{% endgeneration %}`.
`{{ cut }}` is ours: what stands before it and what follows are not encoded in one go.

A template never sees what was said, only a placeholder for it. So it can be kept from code (it is
sandboxed: a checkpoint brings its template along), and text that spells a special token stays text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn

from lmkit.errors import DataError, TokenizerError, did_you_mean
from lmkit.prompts import Message, Part

if TYPE_CHECKING:
    import jinja2

TEMPLATES = Path(__file__).parent / "templates"
INLINE = "inline template"
SPECIAL = re.compile(r"<\|[^\s|<>]+\|>")  # how a template writes special tokens

_MARK = re.compile("\0([^\0]*)\0")
_PLAIN_MARKS = ("bos", "eos", "cut")
_NAMES = {"bos_token": "\0bos\0", "eos_token": "\0eos\0", "cut": "\0cut\0"}
_DEPTH = {"generation": 1, "endgeneration": -1}

# what a template is tried on; no two texts alike, and none that a template would trim
PROBE = (
    Message("user", "first question"),
    Message("assistant", "first answer"),
    Message("user", "second question"),
    Message("assistant", "second answer"),
)
PROBE_SYSTEM = (Message("system", "behave"), *PROBE)
PROBE_TOOL = (
    PROBE[0],
    Message("assistant", (Part("python", "6*7"), Part("python_output", "42"), Part("text", "So."))),
)


class Piece(NamedTuple):
    """A stretch of a rendering.

    `kind`: `template` is the template's own text, in which special tokens count; `text`, `python`
    and `python_output` are what was said; `bos`, `eos` and `cut` have no text.
    """

    kind: Literal["template", "text", "python", "python_output", "bos", "eos", "cut"]
    text: str = ""
    trained: bool = False


@dataclass(frozen=True)
class ChatTemplate:
    """How a conversation is laid out. Two of the same source are equal.

    Attributes:
        source: in Jinja.
        at: where it was read, for error messages.
    """

    source: str
    at: str = field(default=INLINE, compare=False)

    @classmethod
    def open(cls, chat: str, folder: str | Path | None = None) -> ChatTemplate:
        """A packaged template by its name, a `.jinja` file, or the template itself.

        Args:
            folder: where a relative file is looked up before the current folder.

        Raises:
            TokenizerError: there is none of that name, or the file cannot be read.
        """
        if "{{" in chat or "{%" in chat:
            return cls(chat)
        if chat in (names := packaged()):
            return names[chat]
        file = Path(folder or "", chat)
        file = file if file.exists() else Path(chat)
        if file.suffix != ".jinja" and not file.is_file():
            others = f"there are {', '.join(names)}; or name a .jinja file"
            hint = did_you_mean(chat, names) or others
            raise TokenizerError(f"there is no chat template {chat!r}", hint=hint)
        return cls(_read(file), str(file))

    @property
    def name(self) -> str:
        """Of a packaged template its name, wherever it was read from; of a file the file's."""
        same = (name for name, template in packaged().items() if template == self)
        return next(same, Path(self.at).stem)

    def render(self, messages: Sequence[Message], ask: bool = False) -> list[Piece]:
        """A conversation in pieces, from the first to the last.

        Args:
            ask: with the words that make the assistant speak next.

        Raises:
            TokenizerError: the template is wrong; names its line.
            DataError: the template refuses the conversation, or leaves a turn out.
        """
        said: list[_Said] = []
        turns = [_turn(number, message, said) for number, message in enumerate(messages)]
        # odd places hold what stood between two NULs: marks, and numbers of what was said
        found = _MARK.split(self._rendered(turns, ask))
        pieces: list[Piece] = []
        seen: set[int] = set()
        depth = 0
        for index, text in enumerate(found):
            if index % 2 == 0:
                pieces.append(Piece("template", text, depth > 0))
            elif text in _DEPTH:
                depth += _DEPTH[text]
            elif text in _PLAIN_MARKS:
                pieces.append(Piece(text, "", depth > 0))  # type: ignore[arg-type]
            elif not text.isdigit():
                raise TokenizerError("the chat template writes a NUL", at=self.at)
            else:
                content = said[int(text)]
                own = messages[content._turn].role == "assistant"
                trained = depth > 0 and own and content._kind != "python_output"
                pieces.append(Piece(content._kind, content._text, trained))
                if content._text:
                    seen.add(content._turn)
        self._check_complete(messages, seen)
        return pieces

    def _check_complete(self, messages: Sequence[Message], seen: set[int]) -> None:
        for number, message in enumerate(messages):
            if number not in seen and any(part.text.strip() for part in message.parts):
                raise DataError(
                    f"the chat template {self.name!r} leaves out turn {number + 1}, "
                    f"the {message.role}'s",
                    hint="use one that has a place for it, such as nanochat",
                )

    @cached_property
    def special_tokens(self) -> tuple[str, ...]:
        """The special tokens that it writes, `<|like_this|>`, as they come in a conversation.

        Raises:
            TokenizerError: the template is wrong.
        """
        text = ""
        for probe in (PROBE_SYSTEM, PROBE, PROBE_TOOL):
            try:
                pieces = self.render(probe) + self.render(probe[:-1], ask=True)
            except DataError:  # some templates know no system's turn, or no tools
                continue
            text += "".join(piece.text for piece in pieces if piece.kind == "template")
        return tuple(dict.fromkeys(SPECIAL.findall(text)))

    @cached_property
    def shows_tools(self) -> bool:
        """Whether it has a place for the assistant's calls of tools.

        Raises:
            TokenizerError: the template is wrong.
        """
        try:
            pieces = self.render(PROBE_TOOL)
        except DataError:  # it refuses them, and says so when one comes
            return False
        return any(piece.kind == "python" for piece in pieces)

    def _rendered(self, turns: list[dict[str, Any]], ask: bool) -> str:
        template = _compiled(self.source, self.at)
        try:
            return template.render(messages=turns, add_generation_prompt=ask, **_NAMES)
        except (DataError, MemoryError):
            raise
        except Exception as error:  # a template is a program, and may fail in any way
            frames = walk_tb(error.__traceback__)
            lines = [line for frame, line in frames if frame.f_code.co_filename == self.at]
            raise TokenizerError(
                f"the chat template fails: {type(error).__name__}: {' '.join(str(error).split())}",
                hint="mend the template",
                at=f"{self.at}:{lines[-1]}" if lines else self.at,
            ) from error


@cache
def packaged() -> dict[str, ChatTemplate]:
    """The templates that travel in the package, by name."""
    return {
        file.stem: ChatTemplate(_read(file), str(file))
        for file in sorted(TEMPLATES.glob("*.jinja"))
    }


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise TokenizerError(f"cannot read the template: {error.strerror}", at=file) from error
    except UnicodeDecodeError as error:
        raise TokenizerError("the template is not UTF-8", at=file) from error


class _Said(str):
    """What was said, as a template has it: prints as a placeholder, and answers by its text.

    Templates of others look into contents (`content.split('</think>')`, `content | trim`). What
    they get of it are placeholders again.
    """

    _text: str
    _turn: int
    _kind: Any
    _all: list[_Said]

    def __new__(cls, text: str, turn: int, kind: str, all_: list[_Said]) -> _Said:
        self = super().__new__(cls, f"\0{len(all_)}\0")
        self._text, self._turn, self._kind, self._all = text, turn, kind, all_
        all_.append(self)
        return self

    def __bool__(self) -> bool:
        return bool(self._text)

    def _wrap(self, found: Any) -> Any:
        if isinstance(found, str):
            return _Said(found, self._turn, self._kind, self._all)
        if isinstance(found, list | tuple):
            return [self._wrap(item) for item in found]
        return found


def _by_text(name: str) -> Callable[..., Any]:
    method = getattr(str, name)
    return lambda self, *given: self._wrap(method(self._text, *given))


for _name in (
    *("__contains__", "__eq__", "__ne__", "__hash__", "__len__", "__getitem__"),
    *("startswith", "endswith", "find", "count", "split", "rsplit", "partition", "rpartition"),
    *("splitlines", "strip", "lstrip", "rstrip", "removeprefix", "removesuffix", "replace"),
    *("lower", "upper", "capitalize", "title"),
):
    setattr(_Said, _name, _by_text(_name))


def _turn(number: int, message: Message, said: list[_Said]) -> dict[str, Any]:
    return {
        "role": message.role,
        "content": _Said(message.text, number, "text", said),
        "parts": [
            {"type": part.type, "text": _Said(part.text, number, part.type, said)}
            for part in message.parts
        ],
    }


@lru_cache(maxsize=64)
def _compiled(source: str, at: str) -> jinja2.Template:
    import jinja2

    environment = _environment()
    try:
        code = environment.compile(source, filename=at)
    except jinja2.TemplateSyntaxError as error:
        raise TokenizerError(
            f"the chat template is wrong: {error.message}", at=f"{at}:{error.lineno}"
        ) from error
    return environment.template_class.from_code(environment, code, environment.globals)


@cache
def _environment() -> jinja2.Environment:
    """Jinja as Hugging Face sets it up, with its tag; imported here, for text needs it seldom."""
    from jinja2 import Undefined, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}`: a mark before its body and one after it."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> list[nodes.Node]:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            begin, end = (
                nodes.Output([nodes.TemplateData(f"\0{mark}\0")], lineno=line) for mark in _DEPTH
            )
            return [begin, *body, end]

    class Missing(Undefined):
        """A name that is not there can be asked about, as `{% if tools %}` does, not printed."""

        __slots__ = ()
        __str__ = Undefined._fail_with_undefined_error

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=Missing,
        extensions=[Generation, loopcontrols],
    )
    environment.globals["raise_exception"] = _refuse
    environment.filters["replace"] = lambda text, *given: text.replace(*given)
    return environment


def _refuse(said: object) -> NoReturn:
    raise DataError(f"the chat template refuses the conversation: {said}")
