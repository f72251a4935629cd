"""mending: how a run goes on past a step that was not taken."""

from __future__ import annotations

from collections.abc import Callable

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
    await_saved: Callable[[], None],
) -> Step:
    """Keep what there is of a step that was not taken, and do as the policy says.

    Every rank calls it. Rollback takes weights and optimizers back to the last checkpoint that was
    due; the data goes on, so that what was trained since then is left out.

    Args:
        run: as it was before the step.
        step: its number in the run.
        await_saved: waits until the last checkpoint is on the disk.

    Returns:
        what is recorded in its place; `anomaly` tells it in a line.

    Raises:
        Anomaly: the policy is to stop, or this is one too many.
        CheckpointError: the checkpoint to go back to is damaged or gone.
    """
    first, end = run.next_rows
    about = {"stage": run.stage.name, "rows_of_stage": [first, end]}
    experiment = folder.experiment.to_dict()
    place, origin = write_case(folder.path, learner, anomaly, step, experiment, about)
    anomaly.at = f"step {step}"
    anomaly.hint += f"; {place} holds the batch and where it began"
    policy = anomalies.decide(anomaly)
    if policy == "rollback":
        if anomalies.back_to is None:
            anomaly.what += ", and this stage has no checkpoint to go back to"
            raise anomaly
        await_saved()
        checkpoint = Checkpoint(folder.checkpoints / anomalies.back_to)
        checkpoint.check()
        checkpoint.load_weights(learner.model)
        learner.go_on_from(checkpoint)
    anomaly.hint = f"{policy}; {place} holds the batch and where it began"
    notes = {
        "anomaly": anomaly.kind,
        "anomaly_policy": policy,
        "anomaly_rows": f"{first}..{end - 1}",
        "anomaly_origin": origin,
    }
    return Step(anomaly.loss, anomaly.grad_norm, skipped=True, notes=notes)
