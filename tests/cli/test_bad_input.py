"""Whatever a user gets wrong is told in one line that names the place and a way out, before
anything is written. A traceback stands above it only where the user's own code fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from safetensors.torch import load_file

BINARY = bytes(range(256)) * 8


def assert_clear(outcome: Any, code: int, *words: str) -> None:
    """The exit code, and one error line with these words and a hint."""
    assert outcome.code == code, outcome.err
    for word in words:
        assert word in outcome.error
    assert "; " in outcome.error, "there is no hint"
    assert outcome.out == ""


@pytest.mark.parametrize("command", ["train", "check"])
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("steps: 4", "stepz: 4", "takes no 'stepz'; did you mean 'steps'?"),
        ("every: 2", "evry: 2", "takes no 'evry'; did you mean 'every'?"),
        ("holdout:", "holdot:", "takes no 'holdot'; did you mean 'holdout'?"),
        ("Table}", "Table, vocab: 3}", "Table takes no 'vocab'; it takes vocab_size; see"),
        ("steps: 4", "steps: many", "steps must be an integer, not 'many'"),
        ("  batch_size: 2", "  batch_size: true", "batch_size must be an integer, not True"),
        ("holdout: 0.25", "holdout: 2", "holdout is 2.0; it is a share"),
        ("fp32", "fp23", "precision must be 'auto' or 'bf16'"),
        ("my_model.Table", "no_model.Table", "there is no module 'no_model'"),
        ("my_model.Table", "my_model.Tabel", "has no 'Tabel'; did you mean 'Table'?"),
        ("tokenizer.Byte", "tokenizer.Bite", "has no 'Bite'; did you mean 'Byte'?"),
        ("Table}", "Table, vocab_size: 99}", "logits for 99 ids, its tokenizer has 257"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_yaml(project: Any, command: str, old: str, new: str, said: str) -> None:
    project.rewrite(old, new)
    place = f"{project.yaml}:{project.line(new)}: "
    assert_clear(project.lmkit(command, project.yaml), 2, place, said)
    assert not project.run.exists()


@pytest.mark.parametrize("command", ["train", "check"])
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("steps: 4", "steps: 4\n    freeze: [embeding.*]", "no parameter is meant by 'embeding.*'"),
        ("steps: 4", "steps: 4\n    init_from: nowhere", "nowhere: there is no such folder"),
        ("  batch_size: 2", "  batch_tokens: 17", "no multiple of the model's max_len 16; nearest"),
        ("steps: 4", "steps: 4\n    isolate_documents: true", "needs a model whose forward takes"),
        ("path: text.txt", "path: test.txt", "test.txt: no such file or folder"),
        ("steps: 4", "steps: 4\n    validation: {class: lmkit.data.sources.TextFiles, path: gone}",
         "gone: no such file or folder"),
        ("{every: 2}", "{every: 2, best: bits_per_bite}", "did you mean 'bits_per_byte'?"),
        ("{class: lmkit.data.sources.TextFiles, path: text.txt, holdout: 0.25}", "text.jsonl",
         "write {class: lmkit.data.sources.JsonLines, path: text.jsonl}"),
    ],
)  # fmt: skip
def test_a_mistake_that_only_model_or_data_show(
    project: Any, command: str, old: str, new: str, said: str
) -> None:
    project.rewrite(old, new)
    place = f"{project.yaml}:{project.line(new.splitlines()[-1].strip())}: "
    assert_clear(project.lmkit(command, project.yaml), 3 if "nowhere" in said else 2, place, said)
    assert not project.run.exists()


def test_a_key_twice(project: Any) -> None:
    project.rewrite("    steps: 4\n", "    steps: 4\n    steps: 5\n")
    number = project.line("steps: 5")
    assert_clear(project.train(), 2, f"{project.yaml}:{number}", f"line {number - 1} already")


def test_an_override(project: Any) -> None:
    assert_clear(project.train("stages.0.stepz=3"), 2, "override 'stages.0.stepz=3'", "'steps'?")
    assert not project.run.exists()


class TestFiles:
    """Missing, empty, binary and short ones: of the YAML and of the text."""

    def test_no_yaml(self, project: Any) -> None:
        assert_clear(project.lmkit("train", project.folder / "tiny.yml"), 2, "did you mean 'tiny.")
        assert_clear(project.lmkit("train", project.folder), 2, f"{project.folder} is not a file")

    @pytest.mark.parametrize(
        ("content", "said"),
        [(b"", ": the file is empty"), (BINARY, ":2: this is not UTF-8"), (b"[1]", "a mapping")],
    )
    def test_no_yaml_in_it(self, project: Any, content: bytes, said: str) -> None:
        project.yaml.write_bytes(content)
        assert_clear(project.train(), 2, str(project.yaml), said)

    @pytest.mark.parametrize("command", ["train", "check"])
    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (None, "no such file or folder"),
            (b"", "the file is empty"),
            (BINARY, "not utf-8 text (byte 0x80 at 128)"),
            (b"a\0b", "a binary file (a NUL at 1)"),
            (b"so short", "6 tokens are less than a row of 16"),
        ],
    )
    def test_no_text(self, project: Any, command: str, content: bytes | None, said: str) -> None:
        text = project.folder / "text.txt"
        text.unlink()
        if content is not None:
            text.write_bytes(content)
        assert_clear(project.lmkit(command, project.yaml), 2, "text.txt", said)
        assert not project.run.exists()

    def test_a_broken_line(self, project: Any) -> None:
        lines = project.folder / "lines.jsonl"
        lines.write_text('{"text": "one"}\n{"text": \n')
        source = f"{{class: lmkit.data.sources.JsonLines, path: {lines}}}"
        assert_clear(project.train(f"stages.0.data={source}"), 2, f"{lines}:2: not JSON")


class TestPlugins:
    """The user's own module: its traceback is shown, and nothing of lmkit's in it."""

    @pytest.mark.parametrize(
        ("source", "said"),
        [
            ("import torch\nraise ValueError('no luck')\n", "ValueError: no luck"),
            ("import no_such_package\n", "needs no_such_package, which is not installed"),
            ("def f(:\n", "SyntaxError: invalid syntax"),
            ("raise SystemExit(0)\n", "SystemExit: 0"),
        ],
    )
    def test_that_fails_while_importing(self, project: Any, source: str, said: str) -> None:
        (project.folder / "broken.py").write_text(source)
        project.rewrite("my_model.Table", "broken.Table")
        self.assert_shown(project.train(), f"{project.yaml}:{project.line('broken')}: ", said)
        assert not project.run.exists()

    @pytest.mark.parametrize("command", ["train", "check"])
    def test_whose_forward_fails(self, project: Any, command: str) -> None:
        project.rewrite("self.embedding(tokens)", "self.embeding(tokens)", "my_model.py")
        outcome = project.lmkit(command, project.yaml)
        self.assert_shown(outcome, "Table.forward fails on 2 tokens", "no attribute 'embeding'")
        assert not project.run.exists()

    @pytest.mark.parametrize("command", ["train", "check"])
    @pytest.mark.parametrize(
        ("returned", "said"),
        [
            ("self.embedding(tokens)[:, 0]", "logits of shape (1, 257), expected (1, 2, vocab"),
            ("self.embedding(tokens)[0]", "logits of shape (2, 257), expected (1, 2, vocab"),
            ("'nothing'", "Table.forward gave a str, expected logits"),
        ],
    )
    def test_with_logits_of_a_wrong_shape(
        self, project: Any, command: str, returned: str, said: str
    ) -> None:
        project.rewrite("return self.embedding(tokens)", f"return {returned}", "my_model.py")
        place = f"{project.yaml}:{project.line('model:')}"
        assert_clear(project.lmkit(command, project.yaml), 2, place, said)
        assert not project.run.exists()

    @pytest.mark.parametrize("command", ["train", "check"])
    def test_that_is_of_another_kind(self, project: Any, command: str) -> None:
        project.rewrite("my_model.Table", "torch.nn.Dropout")
        assert_clear(project.lmkit(command, project.yaml), 2, "Dropout is no language model")
        project.rewrite("{device: cpu,", "{class: my_model.Table, device: cpu,")
        assert_clear(project.lmkit(command, project.yaml), 2, "my_model.Table takes no 'device'")

    @staticmethod
    def assert_shown(outcome: Any, *words: str) -> None:
        """The plug-in's traceback, and one error line under it."""
        *above, last = outcome.err.splitlines()
        assert outcome.code == 2
        assert last.startswith("error: ")
        assert all(word in last for word in words), last
        assert "; mend it" in last or "; install it" in last
        assert not any(line.startswith("error: ") for line in above)
        assert any(".py" in line for line in above)
        assert "lmkit/cli" not in outcome.err


class TestCheckpoints:
    def test_a_damaged_one_is_passed_over(self, project: Any, process: Callable[..., Any]) -> None:
        assert project.train().code == 0
        _, newest = sorted((project.run / "checkpoints").iterdir())
        os.truncate(newest / "model.safetensors", 1000)
        again = process("train", project.yaml, "stages.0.steps=6", cwd=project.folder.parent)
        assert again.code == 0
        said = f"warning: {newest}: model.safetensors has 1,000 bytes, not "
        assert said in again.err
        assert "going back to 00000002-pretrain" in again.err
        # the damaged one was not used, and what came after it is whole
        metrics = (project.run / "metrics.jsonl").read_text().splitlines()
        steps = [json.loads(line)["step"] for line in metrics]
        assert sorted(set(steps)) == [1, 2, 3, 4, 5, 6]

    @pytest.mark.parametrize("command", ["train", "generate"])
    def test_when_all_are_damaged(self, project: Any, command: str) -> None:
        assert project.train().code == 0
        damage = {}
        for folder in (project.run / "checkpoints").iterdir():
            damage[folder] = folder / "model.safetensors"
            content = bytearray(damage[folder].read_bytes())
            content[-1] ^= 1
            damage[folder].write_bytes(content)
        words = [project.yaml, "stages.0.steps=9"] if command == "train" else [project.run]
        outcome = project.lmkit(command, *words)
        assert_clear(outcome, 3, *map(str, damage), "is altered", "restore one from a backup")
        assert all(path.exists() for path in damage.values()), "nothing is deleted"

    def test_one_without_its_manifest(self, project: Any) -> None:
        assert project.train().code == 0
        *_, newest = sorted((project.run / "checkpoints").iterdir())
        (newest / "manifest.json").unlink()
        assert_clear(project.lmkit("generate", newest), 3, str(newest))

    def test_one_of_another_architecture(self, project: Any) -> None:
        assert project.train().code == 0
        other = "model={class: lmkit_models.mlp.MLP, nodes: 8, max_len: 16}"
        said = "checkpoint of another architecture"
        fresh = project.folder / "other"
        begin = project.train(other, f"out={fresh}", f"stages.0.init_from={project.run}")
        assert_clear(begin, 3, str(project.run), said, "embedding.weight is [257, 257] there")
        assert not fresh.exists()
        assert_clear(project.train(other), 3, str(project.run), "model.class", "--allow-change")
        assert_clear(project.train(other, "--allow-change=model*"), 3, said)

    def test_weights_to_start_from_that_are_not_there(self, project: Any) -> None:
        for command in ("train", "check"):
            outcome = project.lmkit(command, project.yaml, "stages.0.init_from=nowhere")
            assert_clear(outcome, 3, "nowhere: there is no such folder")


class TestDisk:
    def test_too_small_for_a_checkpoint(
        self, project: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("lmkit.checkpoints.durable.free_bytes", lambda path: 1000)
        outcome = project.train()
        assert_clear(outcome, 74, "a checkpoint needs 1.8 MiB and 1000 B are free", "make room")
        assert list((project.run / "checkpoints").iterdir()) == []
        assert not (project.run / "metrics.jsonl").exists(), "it was found before step 1"

    @pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
    def test_a_real_one_that_is_too_small(self, project: Any) -> None:
        project.run.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(project.run)]
        if subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("mounting is not permitted here")
        try:
            assert_clear(project.train(), 74, str(project.run), "KiB are free")
            assert not (project.run / "metrics.jsonl").exists()
        finally:
            subprocess.run(["umount", str(project.run)], check=True)

    def test_that_cannot_be_written(self, project: Any) -> None:
        project.run.write_text("a file")
        assert_clear(project.train(), 74, str(project.run))


POISON = """\
        Table.last = self
        logits = self.embedding(tokens)
        Table.calls = getattr(Table, "calls", 0) + self.training
        return logits * float("nan") if Table.calls > 3 else logits
"""


def test_a_loss_that_is_not_finite(project: Any) -> None:
    project.rewrite("        return self.embedding(tokens)\n", POISON, "my_model.py")
    outcome = project.train("stages.0.checkpoint.every=1")
    assert_clear_but_for_progress(outcome)
    diagnosis = project.run / "not_finite_step_4"
    assert str(diagnosis) in outcome.error
    report = json.loads((diagnosis / "report.json").read_text())
    assert report["step"] == 4
    assert report["parameters_not_finite"] == []
    assert report["gradients_not_finite"] == ["embedding.weight"]
    assert len(report["rows"]) == len(load_file(diagnosis / "batch.safetensors")["inputs"]) == 2

    newest = sorted((project.run / "checkpoints").iterdir())[-1]
    assert newest.name == "00000003-pretrain"
    weights = sys.modules["my_model"].Table.last.embedding.weight
    assert weights.equal(load_file(newest / "model.safetensors")["embedding.weight"])

    sys.modules["my_model"].Table.calls = -100
    assert project.train("stages.0.checkpoint.every=1").code == 0, "the checkpoints are intact"


def assert_clear_but_for_progress(outcome: Any) -> None:
    assert outcome.code == 4
    assert outcome.error.startswith("error: step 4: loss nan")
    assert "lower the learning rate" in outcome.error


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--temperature", "-1"),
        ("--temperature", "nan"),
        ("--temperature", "hot"),
        ("--top-k", "0"),
        ("--top-p", "2"),
        ("--repetition-penalty", "0"),
        ("--max-new-tokens", "0"),
        ("--max-new-tokens", "1.5"),
        ("--stop", ""),
    ],
)
def test_a_bad_sampling_value_names_its_flag(
    lmkit: Callable[..., Any], flag: str, value: str
) -> None:
    assert_clear(lmkit("generate", "nowhere", f"{flag}={value}"), 2, flag)


class TestInAProcess:
    """What a user sees, the real thing."""

    def test_no_torch_for_a_mistake_in_the_structure(self, project: Any) -> None:
        project.rewrite("steps: 4", "stepz: 4")
        code = (
            "import sys; from lmkit.cli import main; "
            "print(main(sys.argv[1:]), 'torch' in sys.modules)"
        )
        command = [sys.executable, "-c", code, "train", str(project.yaml)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout == "2 False\n"
        assert done.stderr.count("\n") == 1

    def test_a_plugin_that_fails(self, project: Any, process: Callable[..., Any]) -> None:
        (project.folder / "my_model.py").write_text("import os\n\n1 / 0\n")
        outcome = process("check", "project/tiny.yaml", cwd=project.folder.parent)
        TestPlugins.assert_shown(outcome, "project/tiny.yaml:4: ", "ZeroDivisionError")
        assert f'"{project.folder / "my_model.py"}", line 3' in outcome.err
