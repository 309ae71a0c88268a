"""How well a restorer does: the error of ε noise level by noise level, and y_0 beside the distorted picture."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from diffvqa_rt.errors import TrainingError
from diffvqa_rt.metrics.diffv2iqa.config import DiffV2IQAConfig
from diffvqa_rt.models.diffv2iqa.restoration import RestorationStep, restore
from diffvqa_rt.models.diffv2iqa.restorer import Restorer
from diffvqa_rt.sampler import SamplerConfig
from diffvqa_rt.training.diffv2iqa.restoration import noise_levels, noised
from diffvqa_rt.training.loop import Batch

# Of the squared distance of two pictures in [−1, 1].
_PEAK = 4.0
_PICTURES_AT_A_TIME = 16
_GUESS = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RestorationReport:
    """The measurement of a restorer on some pairs.

    Attributes:
        side: of the crops that it learned from.
        view_size: S.
        errors_at_side, errors_at_view: of ε at t = 1 … T, in those sizes.
        distorted_db: PSNR of x, the mean over the pictures that differ from their reference.
        restored_db: of y_0, over the same pictures.
        better: the share of them whose y_0 is nearer to the reference than x.
    """

    side: int
    view_size: int
    errors_at_side: tuple[float, ...]
    errors_at_view: tuple[float, ...]
    distorted_db: float
    restored_db: float
    better: float

    def scalars(self) -> dict[str, float]:
        return {
            "worst_error_at_side": max(self.errors_at_side),
            "worst_error_at_view": max(self.errors_at_view),
            "distorted_db": self.distorted_db,
            "restored_db": self.restored_db,
            "better": self.better,
        }

    def lines(self) -> Iterator[str]:
        yield f"error of the noise by steps left, 1 for guessing zero, at {self.side}² and at {self.view_size}² pixels:"
        for t, errors in enumerate(zip(self.errors_at_side, self.errors_at_view, strict=True), start=1):
            yield f"  t {t:3}  {errors[0]:8.4f}  {errors[1]:8.4f}"
        yield (
            f"PSNR of the restored pictures {self.restored_db:.2f} dB, of the distorted ones {self.distorted_db:.2f} "
            f"dB; {self.better:.0%} of them are nearer to their references"
        )

    def check(self) -> None:
        """Raises TrainingError where the restorer is worse than a guess on pictures of the size that is scored."""
        # Of errors that are no numbers too.
        worse = [(t, error) for t, error in enumerate(self.errors_at_view, start=1) if not error <= _GUESS]
        if worse:
            t, error = max(worse, key=lambda found: found[1])
            raise TrainingError(
                f"the error of the noise is {error:.3g} at {t} steps left on pictures of {self.view_size}² pixels, "
                f"worse than guessing zero, so that no picture is restored; learn from larger crops than {self.side}² "
                "(--crop-side), or for longer"
            )


def report_on(restorer: Restorer, config: DiffV2IQAConfig, pairs: Batch, side: int) -> RestorationReport:
    """Measures a restorer that is in evaluation mode, on `x` and `reference` [B, 3, S, S] and on their corners."""
    corners = {name: pictures[:, :, :side, :side] for name, pictures in pairs.items()}
    distorted, restored = restored_psnr(restorer, config, pairs)
    return RestorationReport(
        side=side,
        view_size=config.view_size,
        errors_at_side=noise_errors(restorer, config.sampler, corners),
        errors_at_view=noise_errors(restorer, config.sampler, pairs),
        distorted_db=float(distorted.mean()),
        restored_db=float(restored.mean()),
        better=float((restored > distorted).float().mean()),
    )


@torch.no_grad()
def noise_errors(restorer: Restorer, sampler: SamplerConfig, pairs: Batch, seed: int = 0) -> tuple[float, ...]:
    """The mean squared error of ε at γ_t for t = 1 … T; 1 is what zero would have.

    Args:
        pairs: `x` and `reference`, as `PairBatches` gives them.
        seed: of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    device = next(restorer.parameters()).device
    errors = []
    for gamma in noise_levels(sampler)[1:]:
        total = 0.0
        for x, reference in _parts(pairs):
            noise = torch.randn(reference.shape, generator=generator)
            level = gamma.expand(len(x))
            predicted = restorer(x.to(device), noised(reference, level, noise).to(device), level.to(device))
            total += float((predicted.float().cpu() - noise).square().mean((1, 2, 3)).sum())
        errors.append(total / len(pairs["x"]))
    return tuple(errors)


@torch.no_grad()
def restored_psnr(restorer: Restorer, config: DiffV2IQAConfig, pairs: Batch) -> tuple[Tensor, Tensor]:
    """PSNR in dB of x and of y_0, restored by all T steps, for each of `pairs` whose x is not the reference itself."""
    step = RestorationStep(restorer, config)
    device = next(restorer.parameters()).device
    distorted, restored = [], []
    for x, reference in _parts(pairs):
        y_0 = restore(step, x.to(device), config).y_0.cpu()
        distorted.append(_psnr_db(x, reference))
        restored.append(_psnr_db(y_0, reference))
    before, after = torch.cat(distorted), torch.cat(restored)
    return before[before.isfinite()], after[before.isfinite()]


def _parts(pairs: Batch) -> Iterator[tuple[Tensor, Tensor]]:
    yield from zip(*(pairs[name].split(_PICTURES_AT_A_TIME) for name in ("x", "reference")), strict=True)


def _psnr_db(picture: Tensor, reference: Tensor) -> Tensor:
    """[B], infinite where they are the same."""
    return 10 * torch.log10(_PEAK / (picture - reference).square().mean((1, 2, 3)))
