"""runner: the runner that fits any model class; what a runner does stands in runner_base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from lmkit.config import Experiment, build
from lmkit.config import parameters as declared
from lmkit.errors import ConfigError
from lmkit.model import LMBase
from lmkit.train.loading import build_model
from lmkit.train.runner_base import LMRunnerBase

__all__ = ["BasicModelRunner", "LMRunnerBase", "build_runner"]


def build_runner(experiment: Experiment) -> LMRunnerBase:
    """The runner that an experiment names.

    Raises:
        ConfigError: a key of it is wrong, or it is no runner.
    """
    spec = experiment.runner
    runner = build(spec, experiment=experiment)
    if not isinstance(runner, LMRunnerBase):
        hint = "derive it from lmkit.train.runner.LMRunnerBase"
        raise ConfigError(f"{spec.path} is no runner", hint=hint, at=spec.at)
    return runner


class BasicModelRunner(LMRunnerBase):
    """A runner for any model class: `BasicModelRunner(MyModel)`, or in a YAML for the one it names.

    Args:
        model_class: the model; an experiment names its own.
        overrides: arguments of the model that beat all others.
        settings: as of LMRunnerBase.
    """

    def __init__(
        self,
        model_class: type[LMBase] | None = None,
        max_batch_size: int | Literal["auto"] = "auto",
        overrides: Mapping[str, Any] | None = None,
        *,
        experiment: Experiment | None = None,
        **settings: Any,
    ) -> None:
        if experiment is not None and overrides:
            # part of the experiment from here on, so that a checkpoint builds the same model
            experiment = replace(experiment, model=experiment.model.with_args(**overrides))
        super().__init__(max_batch_size=max_batch_size, experiment=experiment, **settings)
        if model_class is None and experiment is None:
            raise ConfigError(
                f"{type(self).__qualname__} was given neither a model class nor an experiment",
                hint="its __init__ must declare experiment=None and hand it on",
            )
        if model_class is not None and experiment is not None:
            raise ConfigError("an experiment names its own model", hint="leave out model_class:")
        self.model_class = model_class
        self.overrides = dict(overrides or {})

    def _construct_model(self, **parameters: Any) -> LMBase:
        if self.experiment is not None:
            tokenizer = build(self.experiment.tokenizer, folder=self.experiment.folder)
            return build_model(self.experiment.model, tokenizer)
        assert self.model_class is not None
        given = {**parameters, **self.overrides}
        tokenizer = given.get("tokenizer")
        if not any(each.name == "tokenizer" for each in declared(self.model_class)):
            given.pop("tokenizer", None)  # a class that brings its own
        model = self.model_class(**given)
        if tokenizer is not None:
            model.tokenizer = tokenizer
        return model
