"""The part that `diffvqa adapt` and `diffvqa train` share: the arguments of a run, and its bar."""

import argparse
import importlib.util
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from diffvqa_rt.arguments import checked_arguments, whole_number
from diffvqa_rt.errors import TrainingError
from diffvqa_rt.extras import needs_package
from diffvqa_rt.hub import local_weights

if TYPE_CHECKING:
    from accelerate import Accelerator

    from diffvqa_rt.training.loop import FitConfig, OnProgress, OnStep, Schedule

PRECISIONS = ("no", "fp16", "bf16")
_PACKAGES = ("torch", "accelerate", "safetensors", "scipy", "tensorboard")


def add_fit_arguments(
    command: argparse.ArgumentParser,
    *,
    learning_rate: float,
    weight_decay: float,
    batch: int,
    schedule: "Schedule" = "constant",
) -> None:
    """Adds all that decides how a run trains, and where it is kept; the defaults given are the paper's."""
    command.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the run's folder; the same command goes on from there"
    )
    command.add_argument(
        "--batch",
        type=whole_number(1),
        default=batch,
        metavar="N",
        help="of all processes together, a multiple of their number (default: %(default)s)",
    )
    command.add_argument(
        "--learning-rate",
        type=unsigned_number,
        default=learning_rate,
        metavar="X",
        help="of AdamW (default: %(default)s)",
    )
    command.add_argument(
        "--weight-decay",
        type=unsigned_number,
        default=weight_decay,
        metavar="X",
        help="of AdamW (default: %(default)s)",
    )
    command.add_argument(
        "--schedule",
        choices=("constant", "cosine"),
        default=schedule,
        help="of the learning rate; cosine falls to 0 at the last step (default: %(default)s)",
    )
    command.add_argument(
        "--mixed-precision",
        choices=PRECISIONS,
        default="no",
        help="compute in half precision where that is safe; weights stay float32, and fp16 needs a GPU "
        "(default: %(default)s)",
    )
    command.add_argument(
        "--gradient-checkpointing",
        action="store_true",
        help="keep no activations for the backward pass, but compute them again: less memory, more time",
    )
    command.add_argument(
        "--seed", type=whole_number(0), default=0, metavar="N", help="decides all that is random (default: %(default)s)"
    )
    command.add_argument(
        "--checkpoint-steps",
        type=whole_number(1),
        default=500,
        metavar="N",
        help="keep the run's state every N steps; a stopped run keeps it too (default: %(default)s)",
    )
    command.add_argument(
        "--workers",
        type=whole_number(0),
        default=2,
        metavar="N",
        help="processes that decode and read ahead; change no result (default: %(default)s)",
    )


def add_cache_arguments(command: argparse.ArgumentParser, folder: Path, what: str) -> None:
    """Adds `--cache` and `--cache-gigabytes`; `what`, a plural, is kept there."""
    command.add_argument(
        "--cache",
        type=Path,
        default=folder,
        metavar="DIR",
        help=f"where {what} are kept, for every run on the same frozen network (default: %(default)s)",
    )
    command.add_argument(
        "--cache-gigabytes",
        type=whole_number(1),
        default=100,
        metavar="GB",
        help="the most that DIR may take; a run that needs more says so before it starts (default: %(default)s)",
    )


def fit_config(arguments: argparse.Namespace, steps: int) -> "FitConfig":
    """The values of `add_fit_arguments`, for a run of so many steps. Raises ValueError as `FitConfig` does."""
    from diffvqa_rt.training.loop import FitConfig

    return FitConfig(
        steps=steps,
        learning_rate=arguments.learning_rate,
        weight_decay=arguments.weight_decay,
        schedule=arguments.schedule,
        mixed_precision=arguments.mixed_precision,
        gradient_checkpointing=arguments.gradient_checkpointing,
        seed=arguments.seed,
        checkpoint_steps=arguments.checkpoint_steps,
        workers=arguments.workers,
    )


def fetch_weights(arguments: argparse.Namespace, layout: Sequence[str] = ()) -> None:
    """Makes a path of `--weights`, which may be hf://….

    Raises:
        UsageError: it is no such name.
        WeightsError: the weights cannot be had.
    """
    if arguments.weights is not None:
        with checked_arguments():
            arguments.weights = local_weights(arguments.weights, layout)


def require_packages() -> None:
    """Raises TrainingError where the extra `train` is not installed."""
    for package in _PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise TrainingError(needs_package("training", package, "train"))


def open_accelerator(arguments: argparse.Namespace) -> "Accelerator":
    """The accelerator that moves the run to its devices: one process, or those of `accelerate launch` or `torchrun`.

    Raises:
        TrainingError: the device lacks the precision.
    """
    from accelerate import Accelerator, InitProcessGroupKwargs

    try:
        # One process may extract features, or measure what is held out, for hours before the others' next gradient.
        patience = InitProcessGroupKwargs(timeout=timedelta(days=2))
        accelerator = Accelerator(mixed_precision=arguments.mixed_precision, kwargs_handlers=[patience])
    except (ValueError, RuntimeError) as error:
        raise TrainingError(f"--mixed-precision {arguments.mixed_precision} cannot be had here: {error}") from error
    if arguments.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise TrainingError("--mixed-precision fp16 cannot be had here: it needs a GPU; a CPU takes bf16")
    return accelerator


@contextmanager
def step_bar(label: str, steps: int) -> "Iterator[OnStep]":
    """A bar on a terminal's stderr, with the loss beside it."""
    with tqdm(total=steps, desc=label, unit="step", file=sys.stderr, disable=None) as bar:

        def show(done: int, scalars: Mapping[str, float]) -> None:
            bar.update(done - bar.n)
            bar.set_postfix({name: f"{value:.4g}" for name, value in scalars.items()})

        yield show


@contextmanager
def item_bar(label: str, unit: str = "video") -> "Iterator[OnProgress]":
    """A bar on a terminal's stderr that counts videos, or what `unit` says."""
    with tqdm(desc=label, unit=unit, file=sys.stderr, disable=None) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


def unsigned_number(text: str) -> float:
    """Returns an argument's text as a finite number of 0 or more, or refuses it in a sentence."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 0 or more")
    return number
