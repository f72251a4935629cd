"""mending: how a run goes on past a step that was not taken."""

from __future__ import annotations

from lmkit.checkpoints.checkpoint import Checkpoint
from lmkit.train.anomaly import Anomalies, Anomaly
from lmkit.train.diagnosis import write_case
from lmkit.train.learner import Learner, Step
from lmkit.train.run_folder import RunFolder
from lmkit.train.stage_run import StageRun


def pass_over(
    anomaly: Anomaly,
    anomalies: Anomalies,
    learner: Learner,
    run: StageRun,
    folder: RunFolder,
    step: int,
) -> Step:
    """Keep what there is of a step that was not taken, and do as the policy says.

    Every rank calls it. Rollback takes weights and optimizers back to the last checkpoint that was
    due, which is on the disk by now; the data goes on, so that what was trained since then is left
    out.

    Args:
        run: as it was before the step.
        folder: `not_finite_step_N/` or `spike_step_N/` is made in it.
        step: its number in the run.

    Returns:
        what is recorded in its place; `anomaly` tells it in a line.

    Raises:
        Anomaly: the policy is to stop, or this is one too many.
        CheckpointError: the checkpoint to go back to is damaged or gone.
    """
    first, end = run.next_rows
    about = {"step": step, "stage": run.stage.name, "rows_of_stage": [first, end]}
    place = folder.path / f"{anomaly.kind}_step_{step}"
    case = write_case(place, learner, anomaly, folder.experiment.to_dict(), about)
    kept = f"{place} holds the batch and where it began"
    anomaly.at = f"step {step}"
    anomaly.hint += f"; {kept}"
    back_to = anomalies.decide(anomaly)
    if back_to is not None:
        checkpoint = Checkpoint(folder.checkpoints / back_to)
        checkpoint.check()
        checkpoint.load_weights(learner.model)
        learner.go_on_from(checkpoint)
    policy = anomalies.wishes.policy
    anomaly.hint = f"{policy}; {kept}"
    notes = {
        "anomaly": anomaly.kind,
        "anomaly_policy": policy,
        "anomaly_rows": f"{first}..{end - 1}",
        "anomaly_origin": case.report["origin"],
    }
    return Step(anomaly.loss, anomaly.grad_norm, skipped=True, notes=notes)
