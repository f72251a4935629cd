"""lmkit chat: talk with a model, in a terminal or through a pipe."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmkit.cli.importing import importing
from lmkit.cli.precision import add_precision
from lmkit.cli.sampling import add_sampling, sampling_of
from lmkit.cli.terminal import Read, Screen, is_terminal, read_turn, reader
from lmkit.errors import ConfigError, LMKitError, StorageError, did_you_mean

if TYPE_CHECKING:
    from lmkit.prompts import Message
    from lmkit.serve.conversation import Conversation

HELP = """\
/reset         forget what was said
/system TEXT   tell the model something beforehand; without TEXT, nothing any more
/save FILE     write the conversation as a line of JSON, which can be trained on
/help          this
/quit          leave, as Ctrl+D does
A line that ends in \\ goes on in the next one. Ctrl+C stops an answer."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("checkpoint", help="a run's folder, or one checkpoint's")
    parser.add_argument("-p", "--prompt", help="ask only this and leave; - reads stdin")
    parser.add_argument("--system", metavar="TEXT", help="what the model is told beforehand")
    add_sampling(parser, max_new_tokens=512, temperature=0.6)
    parser.add_argument("--seed", type=int, help="to get the same answers again")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    add_precision(parser)
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the step from token to token: a wait at first, then faster",
    )
    parser.add_argument(
        "--trust-code",
        action="store_true",
        help="run the copy of your own modules that the checkpoint holds",
    )


def run(arguments: argparse.Namespace) -> int:
    """Answer turn by turn, until there are no more."""
    with importing():
        from lmkit.ranks.world import pick_device
        from lmkit.serve.conversation import Conversation
        from lmkit.train.loading import load_model

    seed = int.from_bytes(os.urandom(4), "little") if arguments.seed is None else arguments.seed
    sampling = sampling_of(arguments, seed)
    for stream in (sys.stdin, sys.stdout):  # a byte that is no character shall not end the talk
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    device, trusted = pick_device(arguments.device), arguments.trust_code
    model = load_model(arguments.checkpoint, device, trusted, precision=arguments.precision)
    talk = Talk(Conversation(model, sampling, arguments.system, arguments.compile))
    if arguments.prompt is not None:
        talk.answer(sys.stdin.read() if arguments.prompt == "-" else arguments.prompt)
        return 0
    talk.screen.note(f"{model.name}, {model.parameter_count():,} parameters; /help says more")
    if is_terminal():
        talk.with_a_person(reader())
    else:
        talk.with_a_pipe(reader())
    return 0


class Talk:
    """A conversation, shown as it goes."""

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.screen = Screen()
        self.saved: set[Path] = set()

    def with_a_person(self, read: Read) -> None:
        """Turn after turn; no mistake ends the talk, and Ctrl+C only at once after another."""
        leaving = False
        while True:
            try:
                text = read_turn(read)
                leaving = False
                self.take(text)
            except LMKitError as error:
                print(f"error: {error}", file=sys.stderr)
            except KeyboardInterrupt:
                print()
                if leaving:
                    return
                leaving = True
                self.screen.note("Ctrl+C again leaves, and so does Ctrl+D")
            except EOFError:
                print()
                return

    def with_a_pipe(self, read: Read) -> None:
        """Turn after turn; a mistake is an error, and Ctrl+C ends it."""
        while True:
            try:
                self.take(read_turn(read))
            except EOFError:
                return

    def take(self, text: str) -> None:
        """Answer a turn, or do what it commands.

        Raises:
            EOFError: it is /quit.
            LMKitError: a command that there is not, or that cannot be done.
        """
        command = re.fullmatch(r"/(\w+)(?:\s+(.*))?", text.strip(), re.DOTALL)
        if command is not None:
            self._do(command[1], command[2] or "")
        elif text.strip():
            self.answer(text)

    def answer(self, text: str) -> None:
        """Ask, and show the answer as it comes; a person stops it with Ctrl+C."""
        unread, stopped = self.conversation.unread, False
        pieces = self.conversation.say(text)
        try:
            for piece in pieces:
                self.screen.show(piece)
        except KeyboardInterrupt:
            stopped = True
            if not self.screen.is_terminal:
                raise
        finally:
            pieces.close()
            self.screen.end()
        answer = self.conversation.answer
        if answer is not None and not answer.parts:
            self.screen.note("no answer")
        elif answer is not None and answer.finish == "length" and not stopped:
            self.screen.note(f"cut after {len(answer.ids)} tokens; --max-new-tokens allows more")
        if self.conversation.unread > unread:
            what = f"the first {self.conversation.unread} messages"
            self.screen.note(f"{what} no longer fit into the context and are not read")

    def _do(self, command: str, argument: str) -> None:
        """One of the commands of HELP."""
        if command == "quit":
            raise EOFError
        if command == "help":
            print(HELP)
        elif command == "reset":
            self.conversation.reset()
            self.screen.note("forgotten")
        elif command == "system":
            self.conversation.system = argument or None
            self.screen.note("the model is told so from now on" if argument else "no system")
        elif command == "save":
            self._save(argument)
        else:
            known = re.findall(r"^/\w+", HELP, re.MULTILINE)
            hint = did_you_mean(f"/{command}", known) or f"there are {', '.join(known)}"
            raise ConfigError(f"there is no /{command}", hint=hint)

    def _save(self, name: str) -> None:
        if not name:
            raise ConfigError("/save needs a file", hint="/save talk.jsonl")
        file = Path(name).expanduser().absolute()
        if file.exists() and file not in self.saved:
            raise ConfigError("there is such a file already", hint="take another name", at=file)
        said = [_plain(message) for message in self.conversation.messages]
        try:
            line = json.dumps({"messages": said}, ensure_ascii=False)
            file.write_text(line + "\n", encoding="utf-8")
        except OSError as error:
            raise StorageError(f"cannot save: {error.strerror}", at=file) from error
        self.saved.add(file)
        self.screen.note(f"{len(said)} messages are in {file}")


def _plain(message: Message) -> dict[str, Any]:
    """A message as a line of a training file has it."""
    if all(part.type == "text" for part in message.parts):
        return {"role": message.role, "content": message.text}
    parts = [{"type": part.type, "text": part.text} for part in message.parts]
    return {"role": message.role, "content": parts}
