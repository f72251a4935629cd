"""evals: how good a model is, in numbers that can be compared."""

from lmkit.evals.bits_per_byte import BitsPerByte, bits_per_byte
from lmkit.evals.suite import TaskResult, centered_mean, evaluate_task
from lmkit.evals.task import Problem, Task

__all__ = [
    "BitsPerByte",
    "Problem",
    "Task",
    "TaskResult",
    "bits_per_byte",
    "centered_mean",
    "evaluate_task",
]
