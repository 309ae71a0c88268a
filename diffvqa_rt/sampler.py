"""The spaced DDPM sampler as two constant tables (SPEC §2). NumPy alone, so training, export and tests share them.

Eq. (2) of the paper, written through the clamped estimate of z0 (Nichol & Dhariwal 2021, `clip_denoised`):

    ẑ0      = clamp((z_t − √(1−ᾱ_t) ε) / √ᾱ_t, ±latent_clamp)
    z_{t−1} = √ᾱ_{t−1} β_t/(1−ᾱ_t) · ẑ0 + √α_t (1−ᾱ_{t−1})/(1−ᾱ_t) · z_t + σ_t n

While the clamp is inactive and σ_t² = β_t this is eq. (2) exactly. The last step adds no noise and returns ẑ0.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from diffvqa_rt.checks import require

NoiseSchedule = Literal["cosine", "scaled_linear"]
Variance = Literal["beta", "posterior"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplerConfig:
    """Spaced DDPM (SPEC §2): `steps` of the `train_steps` long schedule, evenly from the last to 0.

    `variance` is σ_t² of the noise that a step adds: β_t, or the posterior's, β_t(1−ᾱ_{t−1})/(1−ᾱ_t), which leaves in
    z_t just the noise that √(1−ᾱ_t) says.
    """

    schedule: NoiseSchedule
    train_steps: int = 1000
    steps: int = 10
    latent_clamp: float = 8.0
    noise_seed: int = 0
    variance: Variance = "beta"

    def __post_init__(self) -> None:
        require(
            self.schedule in get_args(NoiseSchedule), "schedule", self.schedule, f"one of {get_args(NoiseSchedule)}"
        )
        require(self.variance in get_args(Variance), "variance", self.variance, f"one of {get_args(Variance)}")
        require(1 <= self.steps <= self.train_steps, "steps", self.steps, f"1 … train_steps ({self.train_steps})")
        require(self.latent_clamp > 0, "latent_clamp", self.latent_clamp, "a positive number")


COEFFICIENTS = ("z_to_z0", "eps_to_z0", "z0_to_next", "z_to_next", "noise_to_next")
"""The columns of `coefficient_table`."""


def alphas_cumprod(config: SamplerConfig) -> NDArray[np.float64]:
    """ᾱ of every training step, [train_steps] float64.

    `cosine`: Nichol & Dhariwal 2021, eq. 17, β capped at 0.999. `scaled_linear`: Stable Diffusion's own schedule.
    """
    if config.schedule == "cosine":
        t = np.arange(config.train_steps + 1) / config.train_steps
        alpha_bar = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
    else:
        betas = np.linspace(0.00085**0.5, 0.012**0.5, config.train_steps) ** 2
    return np.cumprod(1 - betas)


def timesteps(config: SamplerConfig) -> NDArray[np.int64]:
    """The `steps` timesteps that run, from the last of the schedule to 0: 999, 888, …, 111, 0 for 10 of 1000.

    A single one is 0, where the features are taken.
    """
    return np.linspace(0, config.train_steps - 1, config.steps).round()[::-1].astype(np.int64)


def coefficient_table(config: SamplerConfig) -> NDArray[np.float32]:
    """The sampler's constants, [steps, 5] float32, columns as in `COEFFICIENTS`, β recomputed from the kept ᾱ."""
    kept = alphas_cumprod(config)[timesteps(config)]
    previous = np.append(kept[1:], 1.0)
    alpha = kept / previous
    beta = 1 - alpha
    variance = beta if config.variance == "beta" else beta * (1 - previous) / (1 - kept)
    table = np.stack(
        [
            1 / np.sqrt(kept),
            -np.sqrt((1 - kept) / kept),
            np.sqrt(previous) * beta / (1 - kept),
            np.sqrt(alpha) * (1 - previous) / (1 - kept),
            np.where(previous < 1, np.sqrt(variance), 0.0),
        ],
        axis=1,
    )
    return table.astype(np.float32)


def noise_strengths(config: SamplerConfig) -> NDArray[np.float64]:
    """The factor by which the noise in each step's z_t is stronger than √(1−ᾱ_t), [steps], while every ẑ0 is exact.

    They are 1 with the posterior's variance. Eq. (2) adds √β_t n, which with few steps is much more.
    """
    kept = alphas_cumprod(config)[timesteps(config)]
    table = coefficient_table(config).astype(np.float64)
    variances = [1 - kept[0]]
    for _, _, _, z_to_next, noise_to_next in table[:-1]:
        variances.append(z_to_next**2 * variances[-1] + noise_to_next**2)
    return np.sqrt(variances / (1 - kept))


def initial_coefficients(config: SamplerConfig) -> tuple[float, float]:
    """(√ᾱ_T, √(1−ᾱ_T)) of eq. (1): the sampler starts from z_T = √ᾱ_T z0 + √(1−ᾱ_T) ε."""
    last = float(alphas_cumprod(config)[timesteps(config)[0]])
    return last**0.5, (1 - last) ** 0.5


def noise_table(config: SamplerConfig, latent_shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """The initial noise and the noise of every step but the last, [steps, C, h, w] float32.

    Row 0 is the ε of eq. (1), which the sampler starts from; row k is what step k−1 adds. One table serves all frames,
    views and videos, so that a difference of frames sees only the video. Drawn from the raw 64-bit outputs of the
    counter-based Philox generator by Box–Muller: NumPy guarantees that stream, and not that of its own
    `standard_normal`.
    """
    count = config.steps * int(np.prod(latent_shape))
    raw = np.random.Philox(key=config.noise_seed).random_raw(2 * count)
    uniform = ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    radius = np.sqrt(-2 * np.log(uniform[:count]))
    noise = radius * np.cos(2 * np.pi * uniform[count:])
    return noise.astype(np.float32).reshape(config.steps, *latent_shape)
