"""known: data sets by name: where they live, which files, whose terms; fetches nothing.

What the hub tells of a file itself (its size and sha256) is not repeated here. Sizes are of all
files together, rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lmkit.data.columns import Columns
from lmkit.data.remote import Published
from lmkit.errors import ConfigError, did_you_mean

GB, MB = 10**9, 10**6


@dataclass(frozen=True)
class Known:
    """A data set.

    Attributes:
        about: what it is, for a reader.
        licence: of the data, as its publisher gives it.
        size: bytes to download, all files together, about.
        parts: the files of each part. `train` and, held out by the publisher, `validation` are
            what a model can be trained on; other parts are for tasks.
        repo: on the Hugging Face hub; or
        address: of a web server, which the names of files follow.
        columns: which of a row are the prompt; None: these rows are problems of a task.
        shuffled: the order of the documents means nothing, so that training can begin with the
            first file.
        unpacked: bytes of text in a byte of its files, about.
        published: size and sha256 where the server does not tell them.
    """

    about: str
    licence: str
    size: int
    parts: Mapping[str, tuple[str, ...]]
    repo: str = ""
    address: str = ""
    columns: Columns | None = None
    shuffled: bool = False
    unpacked: float = 1.0
    published: Mapping[str, Published] = field(default_factory=dict)


def known(name: str) -> Known:
    """The data set of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in KNOWN:
        hint = did_you_mean(name, KNOWN) or f"known: {', '.join(KNOWN)}"
        raise ConfigError(f"there is no data set {name!r}", hint=hint, key="name")
    return KNOWN[name]


def _numbered(pattern: str, count: int) -> tuple[str, ...]:
    return tuple(pattern.format(number, count) for number in range(count))


_TEXT = Columns(text="text")
_CHAT = Columns(messages="messages")
_ONE = "-00000-of-00001.parquet"
_ARC_PARTS = {
    f"{level.lower()}_{part}": (f"ARC-{level}/{part}{_ONE}",)
    for level in ("Easy", "Challenge")
    for part in ("train", "validation", "test")
}

KNOWN = {
    "fineweb_edu": Known(
        about="FineWeb-Edu, a sample of 100 B tokens, shuffled: educational web pages",
        licence="ODC-By 1.0",
        size=180 * GB,
        repo="karpathy/fineweb-edu-100b-shuffle",
        parts={
            "train": _numbered("shard_{:05d}.parquet", 1822),
            "validation": ("shard_01822.parquet",),
        },
        columns=_TEXT,
        shuffled=True,
        unpacked=2.5,
    ),
    "climbmix": Known(
        about="NVIDIA's ClimbMix, 400 B tokens, as text and shuffled: selected web pages",
        licence="CC BY-NC 4.0",
        size=600 * GB,
        repo="karpathy/climbmix-400b-shuffle",
        parts={
            "train": _numbered("shard_{:05d}.parquet", 6542),
            "validation": ("shard_06542.parquet",),
        },
        columns=_TEXT,
        shuffled=True,
        unpacked=2.5,
    ),
    "tinystories": Known(
        about="TinyStories: 2.1 M stories in the words of small children, by GPT-3.5 and GPT-4",
        licence="CDLA-Sharing 1.0",
        size=1 * GB,
        repo="roneneldan/TinyStories",
        parts={
            "train": (
                "data/train-00000-of-00004-2d5a1467fff1081b.parquet",
                "data/train-00001-of-00004-5852b56a2bd28fd9.parquet",
                "data/train-00002-of-00004-a26307300439e943.parquet",
                "data/train-00003-of-00004-d243063613e5a057.parquet",
            ),
            "validation": ("data/validation-00000-of-00001-869c898b519ad725.parquet",),
        },
        columns=_TEXT,
        unpacked=1.9,
    ),
    "smol_smoltalk": Known(
        about="SmolTalk for small models: 460 K conversations",
        licence="Apache 2.0",
        size=971 * MB,
        repo="HuggingFaceTB/smol-smoltalk",
        parts={
            "train": _numbered("data/train-{:05d}-of-{:05d}.parquet", 4),
            "validation": (f"data/test{_ONE}",),
        },
        columns=_CHAT,
        unpacked=2.0,
    ),
    "smoltalk": Known(
        about="SmolTalk: 1 M conversations",
        licence="Apache 2.0; of the older sets in it, their own",
        size=2_110 * MB,
        repo="HuggingFaceTB/smoltalk",
        parts={
            "train": _numbered("data/all/train-{:05d}-of-{:05d}.parquet", 9),
            "validation": (f"data/all/test{_ONE}",),
        },
        columns=_CHAT,
        unpacked=2.0,
    ),
    "shakespeare": Known(
        about="Tiny Shakespeare: scenes of the plays, one text",
        licence="public domain",
        size=1_115_394,
        address="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/",
        parts={"train": ("input.txt",)},
        columns=Columns(),
        published={
            "input.txt": Published(
                1_115_394, "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
            )
        },
    ),
    "gsm8k": Known(
        about="GSM8K: 7,473 and 1,319 school problems in arithmetic, worked out",
        licence="MIT",
        size=3 * MB,
        repo="openai/gsm8k",
        parts={"train": (f"main/train{_ONE}",), "test": (f"main/test{_ONE}",)},
        columns=Columns(prompt="question", truth="answer"),
        unpacked=1.7,
    ),
    "mmlu": Known(
        about="MMLU: 14,042 questions of 57 subjects with four choices each",
        licence="MIT",
        size=52 * MB,
        repo="cais/mmlu",
        parts={
            part: (f"all/{part}{_ONE}",)
            for part in ("auxiliary_train", "dev", "validation", "test")
        },
    ),
    "arc": Known(
        about="ARC: 7,787 school questions in science with choices, easy and hard ones",
        licence="CC BY-SA 4.0",
        size=1_200_000,
        repo="allenai/ai2_arc",
        parts=_ARC_PARTS,
    ),
    "humaneval": Known(
        about="HumanEval: 164 Python functions to be written, with tests",
        licence="MIT",
        size=84_000,
        repo="openai/openai_humaneval",
        parts={"test": (f"openai_humaneval/test{_ONE}",)},
    ),
    "core": Known(
        about="the CORE bundle: DCLM's 22 tasks for base models",
        licence="that of each task",
        size=162 * MB,
        address="https://karpathy-public.s3.us-west-2.amazonaws.com/",
        parts={"all": ("eval_bundle.zip",)},
        published={
            "eval_bundle.zip": Published(
                sha256="90a7c19e28ee7a52b4f6e1f87658deb9fde7f63deba2379045bdb1fe9ea5d200"
            )
        },
    ),
}
