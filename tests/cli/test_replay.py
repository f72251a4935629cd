"""A step that was not taken can be run again, and is told of where the run is."""

from __future__ import annotations

import json
from typing import Any

import pytest

BROKEN = """\
        logits = self.embedding(tokens)
        return logits / (tokens != ord("~"))[..., None]
"""


@pytest.fixture
def skipped(project: Any) -> Any:
    """A run of which one row of the text makes the model's logits infinite: its step is skipped."""
    project.rewrite("        return self.embedding(tokens)\n", BROKEN, "my_model.py")
    text = (project.folder / "text.txt").read_text()
    (project.folder / "text.txt").write_text(text.replace("3 and 3 is 6", "3 and 3 is ~"))
    done = project.train("runner.on_anomaly=skip", "stages.0.steps=20")
    assert done.code == 0, done.err
    assert ": not stepped; skip; " in done.err
    return project


def cases(project: Any) -> list[dict[str, Any]]:
    lines = map(json.loads, (project.run / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "anomaly" in line]


def test_it_goes_wrong_again_in_the_same_place(skipped: Any) -> None:
    case = cases(skipped)[0]
    assert (case["anomaly"], case["anomaly_policy"]) == ("not_finite", "skip")
    assert case["anomaly_origin"] == "the output of Table"
    folder = skipped.run / f"not_finite_step_{case['step']}"
    done = skipped.lmkit("replay", folder)
    assert done.code == 4
    assert f"then: step {case['step']}, not_finite, loss" in done.out
    assert f"of the rows {case['anomaly_rows']} of stage pretrain" in done.out
    assert done.out.endswith("not finite: first the output of Table\n")
    report = json.loads((folder / "report.json").read_text())
    assert any("~" in row for row in report["rows"])


def test_without_weights_of_its_own_the_checkpoint_before_it_is_taken(skipped: Any) -> None:
    folder = skipped.run / f"not_finite_step_{cases(skipped)[0]['step']}"
    (folder / "manifest.json").unlink()
    done = skipped.lmkit("replay", folder)
    assert (done.code == 4) == ("weights: " in done.out), done.err
    assert (done.code == 3) == ("nor a checkpoint before it" in done.err)


def test_mended_every_number_is_finite(skipped: Any) -> None:
    folder = skipped.run / f"not_finite_step_{cases(skipped)[0]['step']}"
    report = json.loads((folder / "report.json").read_text())
    (folder / "report.json").write_text(json.dumps(report | {"rows": []}))
    batch = folder / "batch.safetensors"
    content = batch.read_bytes()
    batch.write_bytes(content.replace(ord("~").to_bytes(8, "little"), (65).to_bytes(8, "little")))
    done = skipped.lmkit("replay", folder)
    assert done.code == 0, done.err
    assert done.out.endswith("every number is finite\n")


def test_what_is_no_case_is_one_line(project: Any) -> None:
    done = project.lmkit("replay", project.folder)
    assert done.code == 3
    assert "holds no step that was not taken" in done.error
