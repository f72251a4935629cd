"""Fuzzing: whatever is in a file, it is read or it is an LMKitError; nothing else, and no hang.

What is tried begins with something good, which is then cut, doubled, flipped and mixed with words
that mean much to a reader. The draws follow from a seed, so that a finding can be repeated.
"""

from __future__ import annotations

import base64
import faulthandler
import json
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lmkit.checkpoints.header import read_header
from lmkit.checkpoints.weights import read_tensors, write_tensors
from lmkit.config import load_experiment
from lmkit.config.loader import read_value
from lmkit.config.spec import Place
from lmkit.data.sources import JsonLines
from lmkit.errors import LMKitError
from lmkit.text.encodings import from_ranks
from lmkit.text.tokenizer import Byte, Tiktoken
from tests.faults.conftest import count

TRIALS = count(500, 50_000)
PATIENCE = 60  # seconds for one trial, which takes milliseconds
pytestmark = pytest.mark.timeout(count(300, 7200))

WORDS = [
    b"", b"\0", b"\xff", b"\xef\xbb\xbf", b"\n", b"\r\n", b"\t", b" " * 100, b'"', b"'", b"\\",
    b"\\u0000", b"\\ud800", b"\\UFFFFFFFF", b"{", b"}", b"[", b"]", b"[" * 60, b"{a: " * 60, b":",
    b": ", b",", b"- ", b"&a ", b"*a", b"<<: *a", b"!!python/object/apply:os.system [x]", b"!",
    b"%", b"@", b"`", b"|", b">", b"---", b"...", b"# ", b"null", b"~", b"true", b"no", b"NaN",
    b".inf", b"-.inf", b"Infinity", b"1e999", b"-1", b"0", b"010", b"0x1f", b"1_000", b"9" * 30,
    b"9" * 5000, b"1.5e-320", b"12:30:45", b"2001-01-01", b"class", b"class: os.system",
    b"extends: x.yaml", b"name", b"stages", b"role", b"content", b"messages", b"user",
    b"assistant", b"system", b"text", b"prompt", b"truth", b"type", b"python", b"python_output",
    b"<|endoftext|>", b"<|bos|>", b"F32", b"BF16", b"shape", b"dtype", b"data_offsets",
    b"__metadata__", b"ties", b"==", b" 257", "é漢🙂\u202e\u2028\u0301".encode(),
]  # fmt: skip


def mutated(seeds: list[bytes], draw: random.Random) -> bytes:
    """One of the seeds, altered in a few places."""
    data = bytearray(draw.choice(seeds))
    for _ in range(draw.choice((1, 1, 2, 3, 8))):
        at = draw.randrange(len(data) + 1)
        end = min(len(data), at + draw.choice((1, 1, 4, 30, 1000)))
        how = draw.randrange(7)
        if how == 0:
            data[at:end] = b""
        elif how == 1:
            data[at:at] = draw.choice(WORDS)
        elif how == 2:
            data[at:end] = draw.choice(WORDS)
        elif how == 3 and at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        elif how == 4:
            data[at:at] = data[at:end] * draw.choice((1, 2, 9))
        elif how == 5:
            data[at:end] = draw.randbytes(end - at)
        else:
            other = draw.choice(seeds)
            data[at:] = other[draw.randrange(len(other) + 1) :]
    return bytes(data[:200_000])


def fuzz(what: str, seeds: list[bytes], read: Callable[[bytes], object]) -> None:
    """Read `TRIALS` altered seeds; print how many were good after all."""
    good = 0
    for number in range(TRIALS):
        data = mutated(seeds, random.Random(f"{what} {number}"))
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        try:
            read(data)
            good += 1
        except LMKitError:
            pass
        except BaseException as error:
            raise AssertionError(f"{what} {number}: {type(error).__name__}: {data!r}") from error
        finally:
            faulthandler.cancel_dump_traceback_later()
    assert 0 < good < TRIALS, "nothing was tried that is good, or nothing that is bad"
    print(f"fuzzed {what}: {TRIALS}, {good} of them good")


# --- what is read ---------------------------------------------------------------------------------

EXPERIMENT = b"""\
name: x
seed: 3
tokenizer: lmkit.text.tokenizer.Byte
model: &m {class: lmkit_models.mlp.MLP, max_len: 16, nodes: 4}
stages:
  - name: pretrain
    data: {class: lmkit.data.sources.TextFiles, path: text.txt, holdout: 0.25}
    steps: 4
    batch_size: 2
    optimizers:
      - {class: torch.optim.AdamW, lr: 3e-4, params: [matrices]}
      - {class: torch.optim.SGD, lr: 1e-2}
    evaluate: {every: 2, tokens: 1k, samples: ["once", 'upon']}
    checkpoint: {every: 2, keep: 3}
"""
OTHERS = [
    b"extends: y.yaml\nname: z\nstages:\n  - name: pretrain\n    steps: 9\n",
    b"a: &a [1, 2]\nb: &b {c: *a}\nd: {<<: *b, e: |\n  text\n  more\n}\n",
    b'"a": "\\x41\\u00e9"\n? b\n: c\n# comment\n',
]


def test_yaml(tmp_path: Path) -> None:
    (tmp_path / "y.yaml").write_bytes(EXPERIMENT)
    file = tmp_path / "x.yaml"

    def read(data: bytes) -> None:
        file.write_bytes(data)
        experiment = load_experiment(file)
        json.dumps(experiment.to_dict())

    fuzz("yaml", [EXPERIMENT, EXPERIMENT, *OTHERS], read)


def test_overrides() -> None:
    def read(data: bytes) -> None:
        read_value(data.decode("latin-1"), Place("an override"))

    fuzz("overrides", [b"{a: 1, b: [x, 'y']}", b"3e-4", b"[a, b]", b"&a [*a]"], read)


MESSAGES = [
    {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"},
                  {"role": "assistant", "content": "b <|bos|>"}]},
    {"messages": [{"role": "user", "content": "6*7?"}, {"role": "assistant", "content": [
        {"type": "python", "text": "6*7"}, {"type": "python_output", "text": "42"},
        {"type": "text", "text": "42"}]}]},
    {"prompt": "a", "truth": "b"},
    {"text": "a document with \u00e9, \U0001f642 and <|endoftext|>"},
    {"prompt": "a", "chosen": "b", "rejected": "c"},
    {"text": 1.5e300, "prompt": None, "messages": [[]]},
]  # fmt: skip
LINES = [json.dumps(each).encode() + b"\n" for each in MESSAGES]


def test_jsonl(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"

    def read(data: bytes) -> None:
        file.write_bytes(data)
        list(JsonLines(str(file), holdout=0.5).documents("all"))

    fuzz("jsonl", [*LINES, b"".join(LINES)], read)


@pytest.fixture(scope="module")
def tokenizers() -> list[Byte | Tiktoken]:
    return [Byte(), Tiktoken("python4k"), Tiktoken("python4k", chat="chatml")]


def test_conversations(tokenizers: list[Byte | Tiktoken]) -> None:
    """From JSON to ids and back; what was said never becomes a special token."""
    from lmkit.prompts import Prompt
    from lmkit.text.samples import encode_prompt

    def read(data: bytes) -> None:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            value = data.decode("utf-8", "surrogateescape")
        prompt = Prompt.of(value)
        if prompt.text is not None:
            prompt = Prompt(prompt=prompt.text, truth="x")
        if prompt.chosen is not None:
            prompt = prompt.pair[0]
        for tokenizer in tokenizers:
            sample = encode_prompt(tokenizer, prompt, include_prompts=True)
            text = tokenizer.decode(sample.ids.tolist())
            assert all(said in text for said in prompt.said if prompt.truth is not None)

    fuzz("conversations", LINES[:3] * 2 + [b'"just a text"', LINES[3]], read)


def test_text(tokenizers: list[Byte | Tiktoken]) -> None:
    def read(data: bytes) -> None:
        text = data.decode("utf-8", "surrogatepass" if data[:1] == b"a" else "replace")
        for tokenizer in tokenizers:
            ids = tokenizer.encode(text)
            assert tokenizer.decode(ids) == text
            assert not set(ids) & set(tokenizer.special_tokens.values())
            assert tokenizer.encode_array(text).tolist() == ids

    seeds = [
        b"a text of several words.\n\n  def f(x):\n\treturn x\n", b"a\xed\xa0\x80b", b" " * 3_000,
        "漢字かな交じり文 Ελληνικά \U0001f468\u200d\U0001f469".encode(), b"<|endoftext|><|bos|>",
        b"\x00\x01\x02" * 9, b"x" * 10_000,
    ]  # fmt: skip
    fuzz("text", seeds, lambda data: read_or_refuse(read, data))


@pytest.mark.parametrize("length", [64, 99_999, 100_000, 200_001])
@pytest.mark.parametrize("space", [" ", "\t \u2003"])
def test_white_space_of_any_length(
    tokenizers: list[Byte | Tiktoken], space: str, length: int
) -> None:
    """tiktoken panics at a million; a search for such runs that is not careful takes minutes."""
    run = (space * length)[:length]
    ids = tokenizers[1].encode(f"a{run}b{run}")
    assert tokenizers[1].decode(ids) == f"a{run}b{run}"


def read_or_refuse(read: Callable[[bytes], object], data: bytes) -> None:
    """Bytes that are no text at all are none of the tokenizer's business."""
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        data = data.decode("latin-1").encode()
    read(data)


RANKS = b"\n".join(base64.b64encode(bytes([n])) + b" %d" % n for n in range(256)) + b"\n"
MORE = RANKS + b"".join(
    base64.b64encode(word) + b" %d\n" % (256 + n)
    for n, word in enumerate((b"th", b"the", b" the", b"\xc3\xa9", b"in", b"ing"))
)


def test_ranks_files(tmp_path: Path) -> None:
    file = tmp_path / "x.tiktoken"

    def read(data: bytes) -> None:
        file.write_bytes(data)
        encoding = from_ranks(file)
        assert encoding.decode(encoding.encode_ordinary("the thing é")) == "the thing é"

    fuzz("ranks files", [RANKS, MORE, MORE], read)


def headers() -> Iterator[bytes]:
    """Headers alone: behind each come the bytes that the good one describes."""
    yield b'{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}'
    yield (
        b'{"__metadata__":{"ties":"{\\"c\\":\\"a\\"}"},"a":{"dtype":"BF16","shape":[4],'
        b'"data_offsets":[0,8]},"b":{"dtype":"I64","shape":[],"data_offsets":[8,16]}}'
    )
    yield (
        b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"b":{"dtype":"F8_E4M3",'
        b'"shape":[1,1,16],"data_offsets":[0,16]}}'
    )


def test_safetensors_headers(tmp_path: Path) -> None:
    """What the header's check lets pass, safetensors reads too, and of the same kind."""
    file = tmp_path / "x.safetensors"

    def read(data: bytes) -> None:
        file.write_bytes(struct.pack("<Q", len(data)) + data + bytes(range(16)))
        header = read_header(file)
        tensors = read_tensors(file)
        assert tensors.keys() == header.tensors.keys()
        for name, tensor in tensors.items():
            assert (tensor.dtype, tuple(tensor.shape)) == (
                header.tensors[name].dtype, header.tensors[name].shape
            )  # fmt: skip
            assert tensor.nbytes <= 16

    fuzz("safetensors headers", list(headers()), read)


def test_safetensors_files(tmp_path: Path) -> None:
    """The file as a whole, its length too."""
    import torch

    file, other = tmp_path / "x.safetensors", tmp_path / "y.safetensors"
    weight = torch.arange(6.0)
    write_tensors(other, {"a": weight, "b": weight, "c.d": torch.zeros(3, 0).half()})

    def read(data: bytes) -> None:
        file.write_bytes(data)
        for tensor in read_tensors(file).values():
            tensor.float().sum()

    fuzz("safetensors files", [other.read_bytes()], read)
