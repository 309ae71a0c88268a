"""Each metric's share of `diffvqa adapt` and `diffvqa train`, by the metric's name, imported when it is asked for."""

import argparse
import importlib
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingStage:
    """A stage of a metric's training, as a subcommand runs it; the fields are those of `commands.command.Command`."""

    description: str
    epilog: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    memory_advice: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricTraining:
    """The two stages that a metric is trained in.

    Attributes:
        adapt: learns from pictures that nobody has judged; None where all is learned from opinions.
        train: learns from opinions, on what `adapt` left.
    """

    adapt: TrainingStage | None
    train: TrainingStage


def training_of(metric: str) -> MetricTraining:
    """The training of a metric of `diffvqa_rt.metrics.registry`: `TRAINING` in `diffvqa_rt.training.NAME.commands`."""
    training: MetricTraining = importlib.import_module(f"diffvqa_rt.training.{metric}.commands").TRAINING
    return training
