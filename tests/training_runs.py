"""A small training run, in a module that a spawned worker can import."""

import time
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from diffvqa_rt.errors import TrainingError
from diffvqa_rt.training.loop import FitConfig, Objective, StepBatches, fit

CONFIG = FitConfig(steps=12, learning_rate=0.01, weight_decay=0.01, checkpoint_steps=4)


class Points(StepBatches):
    def __getitem__(self, step):
        return {"x": torch.from_numpy(self.generator(step).standard_normal((5, 3)).astype("float32"))}


class Curve(Objective):
    """Has what is hard to resume: dropout, noise, a BatchNorm's running statistics, Adam's moments."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.trained = nn.Sequential(
            nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.GELU(), nn.Linear(8, 1, bias=False)
        )

    def forward(self, x):
        noisy = self.trained(x + 0.1 * torch.randn_like(x))
        return {"loss": (noisy - x.sum(1, keepdim=True)).square().mean()}


class Unreadable(Points):
    def __getitem__(self, step):
        if step == 2:
            raise TrainingError("a file is gone")
        return super().__getitem__(step)


class SlowPoints(Points):
    def __getitem__(self, step):
        time.sleep(0.02)
        return super().__getitem__(step)


def train_slowly(out: Path):
    """Trains for minutes; prints how many steps are done, once some are."""
    config = replace(CONFIG, steps=10_000, checkpoint_steps=10_000, workers=1)
    accelerator = Accelerator(cpu=True)
    fit(
        Curve(), SlowPoints(7), config, out,
        describes={}, accelerator=accelerator, on_step=lambda done, _: print(done, flush=True),
    )  # fmt: skip


def write_events(run, scalars, purge_step=None):
    """`scalars`: (tag, value, step)."""
    with SummaryWriter(str(run / "tensorboard"), purge_step=purge_step) as writer:
        for tag, value, step in scalars:
            writer.add_scalar(tag, value, step)
