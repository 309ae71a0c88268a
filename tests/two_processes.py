"""A batch that two processes share, in a module that they can import."""

import os
from pathlib import Path

import torch
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from diffvqa_rt.training.aigc_vqa.losses import dual_loss, gathered


class _Loss(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x, y):
        return dual_loss(gathered(self.model(x).squeeze(1)), gathered(y))


def halves_of_a_batch():
    """A linear model, and four videos' inputs and opinions, of which each process has two."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(3, 1).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.3, -0.2, 0.5]]))
        model.bias.zero_()
    x, y = (torch.rand(shape, generator=generator, dtype=torch.float64) for shape in ((4, 3), (4,)))
    return model, x, y


def run_on_two(folder: Path) -> list[tuple[float, torch.Tensor]]:
    """The loss on each process, and the gradient of the weight that it ends with."""
    multiprocessing.spawn(_run, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def _run(rank: int, folder: str) -> None:
    os.environ |= {"OMP_NUM_THREADS": "1"}
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    model, x, y = halves_of_a_batch()
    own = slice(2 * rank, 2 * rank + 2)
    shared = DistributedDataParallel(_Loss(model))  # whose gradients are averaged as long as it lives
    loss = shared(x[own], y[own])
    loss.backward()
    torch.save((loss.item(), model.weight.grad), Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()
