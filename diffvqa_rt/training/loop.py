"""The training loop: one for every network of every metric.

Whatever is random in a step is a function of the seed, the step and the process's rank. What the batches of all
processes hold together is a function of the seed and the step. So a checkpoint needs no random state and no position in
the data: weights, Adam's moments and the number of steps done are all of it, and a run that was killed anywhere ends,
on a CPU, with the bits of one that was not.
"""

import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset
from torch.utils.tensorboard import SummaryWriter

from diffvqa_rt.checks import whole
from diffvqa_rt.errors import DiffVQAError, TrainingError
from diffvqa_rt.training.checkpoint import RUN, Checkpoint

MixedPrecision = Literal["no", "fp16", "bf16"]
Schedule = Literal["constant", "cosine"]
Batch = dict[str, Tensor]

MAX_GRADIENT_NORM = 1.0
WARM_UP_STEPS = 50
LOG_EVERY_STEPS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class FitConfig:
    """The settings of a run, whatever is trained: Adam, with decoupled weight decay (Loshchilov & Hutter 2019, AdamW).

    The paper says Adam and a decay of 1e-2. Added to gradients that are smaller than that, as `torch.optim.Adam` does,
    it takes the Controller apart: after 1,500 steps of `tiny` nine in ten of its weights were below 1e-6.

    `steps` counts updates of the weights. `cosine` falls to zero at the last, after a warm-up of `warm_up_steps`. Not
    all of it decides the result: `checkpoint_steps` and `workers` may change when a run goes on.
    """

    steps: int
    learning_rate: float
    weight_decay: float
    schedule: Schedule = "constant"
    warm_up_steps: int = WARM_UP_STEPS
    mixed_precision: MixedPrecision = "no"
    gradient_checkpointing: bool = False
    seed: int = 0
    checkpoint_steps: int = 500
    workers: int = 0

    def __post_init__(self) -> None:
        least_of = {"steps": 1, "warm_up_steps": 1, "seed": 0, "checkpoint_steps": 1, "workers": 0}
        for name, least in least_of.items():
            object.__setattr__(self, name, whole(name, getattr(self, name), least))
        for name in ("learning_rate", "weight_decay"):
            # Of NumPy's numbers too: a checkpoint's description holds JSON.
            object.__setattr__(self, name, float(getattr(self, name)))
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate is {self.learning_rate}; expected a positive number")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay is {self.weight_decay}; expected 0 or more")
        for name, kind in [("schedule", Schedule), ("mixed_precision", MixedPrecision)]:
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(get_args(kind))}")

    def learning_rate_at(self, step: int) -> float:
        if self.schedule == "constant":
            return self.learning_rate
        warm = min(1.0, (step + 1) / self.warm_up_steps)
        return self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / self.steps))


class Objective(nn.Module):
    """A quantity to minimise. `forward(**batch)` gives named scalars; `loss` is the one that is minimised.

    Attributes:
        trained: the part that learns; a checkpoint holds its parameters and buffers.
        recomputed: the types of blocks that gradient checkpointing runs again in the backward pass.
    """

    trained: nn.Module
    recomputed: tuple[type[nn.Module], ...] = ()


class StepBatches(Dataset[Batch]):
    """A data set whose item number s is this process's share of step s's batch, the same whenever it is asked for.

    What the shares hold together does not depend on how many they are: each process draws all of the batch, and makes
    its own part.

    Args:
        processes: among so many a batch is split.
    """

    def __init__(self, seed: int, processes: int = 1) -> None:
        self.processes = processes
        self._seed = seed
        self._rank = 0

    def on_rank(self, rank: int) -> "StepBatches":
        self._rank = rank
        return self

    def generator(self, step: int, part: int = 0) -> np.random.Generator:
        """Randomness for a step's batch, or for a part of it that is drawn for itself; the same on every process."""
        return np.random.Generator(np.random.Philox(np.random.SeedSequence((self._seed, step, part))))

    def share_of(self, batch: int) -> range:
        """The places in a step's batch that are this process's. Raises ValueError where they cannot be split evenly."""
        if batch % self.processes:
            raise ValueError(
                f"batch is {batch}, of all processes together; expected a multiple of {self.processes}, since so many "
                "processes share it"
            )
        share = batch // self.processes
        return range(self._rank * share, (self._rank + 1) * share)


OnProgress = Callable[[int, int], None]
"""Called with how many of how many are done."""

OnStep = Callable[[int, Mapping[str, float]], None]
"""Called every `LOG_EVERY_STEPS` with how many steps are done and the last one's scalars; on the main process."""


def fit(
    objective: Objective,
    batches: StepBatches,
    config: FitConfig,
    out: Path,
    *,
    describes: Mapping[str, Any],
    accelerator: Accelerator,
    on_step: OnStep | None = None,
    validate: Callable[[], Mapping[str, float]] | None = None,
    validate_steps: int = 1000,
) -> None:
    """Trains `objective.trained` to the end, from the checkpoint in `out` if there is one.

    Args:
        out: gets `checkpoint.safetensors` and `tensorboard/`.
        describes: what else decides the result, as JSON, in sections by name: what of one section may be called as what
            of another. A checkpoint of other values is refused.
        validate: scalars for the log every `validate_steps` and at the end; on the main process, in evaluation mode.

    Raises:
        TrainingError: the checkpoint is of another run or is damaged; the loss or a weight is no number; a batch
            cannot be made; the device's memory or the disk is full.
    """
    assert batches.processes == accelerator.num_processes, "each process is to have its share"
    trained = objective.trained
    if config.gradient_checkpointing:
        checkpoint_activations(objective, objective.recomputed)
    optimizer = torch.optim.AdamW(
        [p for p in trained.parameters() if p.requires_grad], lr=config.learning_rate, weight_decay=config.weight_decay
    )
    kept = Checkpoint(out / "checkpoint.safetensors", trained, optimizer, _description(config, describes, accelerator))
    start = kept.load(accelerator.scaler)
    model, prepared = accelerator.prepare(objective, optimizer)
    kept.restore_moments(accelerator.device)
    writer = None
    if accelerator.is_main_process:
        # What was logged after the checkpoint comes again.
        writer = SummaryWriter(str(out / "tensorboard"), purge_step=start + 1)
    try:
        with _held_interrupts() as interrupted:
            for step, batch in _enumerate(batches.on_rank(accelerator.process_index), start, config):
                torch.manual_seed(_step_seed(config.seed, step, accelerator.process_index))
                for group in optimizer.param_groups:
                    group["lr"] = config.learning_rate_at(step)
                model.train()
                with accelerator.autocast():
                    scalars = model(**{name: tensor.to(accelerator.device) for name, tensor in batch.items()})
                accelerator.backward(scalars["loss"])
                accelerator.clip_grad_norm_(trained.parameters(), MAX_GRADIENT_NORM)
                prepared.step()
                prepared.zero_grad()
                done = step + 1
                is_due = done % config.checkpoint_steps == 0 or done == config.steps
                is_main = accelerator.is_main_process
                if is_due or done % LOG_EVERY_STEPS == 0:
                    values = _finite(scalars, done)
                    if writer:
                        _log(writer, done, values | {"learning_rate": config.learning_rate_at(step)})
                    if on_step and is_main:
                        on_step(done, values)
                is_stopped = _is_anyone(accelerator, interrupted.is_set())
                if (is_due or is_stopped) and is_main:
                    kept.save(done, accelerator.scaler)
                if is_stopped:
                    raise KeyboardInterrupt
                if writer and validate and (done % validate_steps == 0 or done == config.steps):
                    model.eval()
                    _log(writer, done, {f"validation/{name}": value for name, value in validate().items()})
                if is_due:
                    accelerator.wait_for_everyone()
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            "the device has not enough memory; lower --batch, or use --gradient-checkpointing or --mixed-precision"
        ) from error
    finally:
        if writer:
            writer.close()
        trained.eval()


def refuse_another_run(
    objective: Objective, config: FitConfig, out: Path, describes: Mapping[str, Any], accelerator: Accelerator
) -> None:
    """Refuses the checkpoint in `out` where `fit` would, before hours are spent on the way to it.

    Raises:
        TrainingError: as `fit` does.
    """
    optimizer = torch.optim.AdamW(objective.trained.parameters())
    description = _description(config, describes, accelerator)
    Checkpoint(out / "checkpoint.safetensors", objective.trained, optimizer, description).check()


def _is_anyone(accelerator: Accelerator, flag: bool) -> bool:
    """True where the flag is set on any process: all leave at one step, or the rest wait for gradients for ever."""
    if flag:
        accelerator.set_trigger()
    return accelerator.check_trigger()


def _finite(scalars: Mapping[str, Tensor], step: int) -> dict[str, float]:
    values = {name: float(value.detach()) for name, value in scalars.items()}
    if not math.isfinite(values["loss"]):
        raise TrainingError(f"the loss is {values['loss']} at step {step}; lower the learning rate")
    return values


def _log(writer: SummaryWriter, step: int, scalars: Mapping[str, float]) -> None:
    for name, value in scalars.items():
        writer.add_scalar(name, value, step)


@contextmanager
def _held_interrupts() -> Iterator[threading.Event]:
    """The first SIGINT or SIGTERM sets the event, so that it does not cut an update of the weights in two."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted  # which no signal reaches
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def hold(number: int, frame: object) -> None:
        interrupted.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, hold)
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Delivery(Dataset[Batch | DiffVQAError]):
    """The batches of a process, or what went wrong: an exception out of a worker would come as its traceback."""

    def __init__(self, batches: StepBatches) -> None:
        self._batches = batches

    def __getitem__(self, step: int) -> Batch | DiffVQAError:
        try:
            return self._batches[step]
        except DiffVQAError as error:
            return error


def _enumerate(batches: StepBatches, start: int, config: FitConfig) -> Iterator[tuple[int, Batch]]:
    """Each step from `start` on, with its batch; `workers` processes make them ahead of time."""
    steps = range(start, config.steps)
    for step, batch in zip(steps, read_ahead(_Delivery(batches), steps, config.workers), strict=True):
        if isinstance(batch, DiffVQAError):
            raise batch
        yield step, batch


def read_ahead(items: Dataset[Any], order: Sequence[int], workers: int) -> DataLoader[Any]:
    """The items in order, by `workers` processes ahead of time or, if 0, by this one when they are asked for."""
    return DataLoader(
        items,
        batch_size=None,
        sampler=order,
        num_workers=workers,
        # Not by fork: decoders' threads do not survive one.
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=_leave_interrupts_to_the_parent,
    )


def _leave_interrupts_to_the_parent(worker: int) -> None:
    """Ctrl-C reaches a whole group of processes; the parent still wants the batch that it is waiting for."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _step_seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence((seed, step, rank, 1)).generate_state(1, np.uint64)[0] >> 1)


def _description(config: FitConfig, describes: Mapping[str, Any], accelerator: Accelerator) -> dict[str, Any]:
    decides = {name: value for name, value in asdict(config).items() if name not in ("checkpoint_steps", "workers")}
    if config.warm_up_steps == WARM_UP_STEPS:
        del decides["warm_up_steps"]  # checkpoints of when there was no other number have none
    own = {RUN: decides, "processes": accelerator.num_processes}
    assert own.keys().isdisjoint(describes), "a section would hide the run's own"
    return own | dict(describes)


def checkpoint_activations(module: nn.Module, blocks: tuple[type[nn.Module], ...]) -> None:
    """Lets each block of these types be run again in the backward pass, in place of keeping what it computed."""
    for block in module.modules():
        if isinstance(block, blocks):
            # The instance's own: a module around it would change the names of its weights.
            block.forward = _run_again(block.forward)


def _run_again(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *arguments: checkpoint(forward, *arguments, use_reentrant=False)
