"""The denoising loop at full size on a GPU: `sd21` in bfloat16, one video of 8 frames and 2 views, all ten steps.

The baseline is the network as one writes it with diffusers, in eager torch: bfloat16, channels last, the timestep's and
the text's share of every block computed in every step. Beside it each engine that the machine can build. Every row says
its arithmetic, its TFLOP/s, and the share of what a large matrix product reaches on the same GPU.

    pytest benchmarks/bench_denoise_gpu.py --benchmark-only -m gpu
"""

import importlib.util
import statistics

import numpy as np
import pytest
import torch
from diffvqa_export.build import build_engines
from diffvqa_export.context import BuildRequest
from diffvqa_export.stages import STAGES
from diffvqa_export.weights import random_weights
from torch.utils.flop_counter import FlopCounterMode

from diffvqa_rt.config import VIEWS, DiffVQAConfig
from diffvqa_rt.engines import BackendName, open_engines
from diffvqa_rt.errors import DeviceUnavailableError
from diffvqa_rt.models.diffvqa import DiffVQA, random_network
from diffvqa_rt.models.stages import stage_modules
from diffvqa_rt.presets import SD21
from diffvqa_rt.sampler import timesteps
from diffvqa_rt.scoring import denoise

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

ROUNDS = 10
ENGINES: tuple[BackendName, ...] = ("aot-inductor", "onnx-cuda", "tensorrt", "tensorrt-rtx")
PACKAGES = {"onnx-cuda": "onnxruntime", "tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


class EagerLoop:
    """The K steps without a fold, in `dtype` but for the sampler's float32."""

    def __init__(self, network: DiffVQA, dtype: torch.dtype, device: str) -> None:
        extractor = network.extractor
        self._sampler = stage_modules(network)["unet_controller"].to(device)
        self._steps = torch.from_numpy(timesteps(network.config.sampler)).to(device)
        self._extractor = extractor.to(device=device, dtype=dtype, memory_format=torch.channels_last)

    @torch.inference_mode()
    def __call__(self, z0: torch.Tensor) -> torch.Tensor:
        sampler, dtype = self._sampler, self._extractor.null_prompt.dtype
        z = sampler.z0_scale * z0 + sampler.noise_scale * sampler.initial_noise
        for index, timestep in enumerate(self._steps):
            epsilon = self._extractor.predict_noise(z.to(dtype), z0.to(dtype), timestep[None])
            z = sampler.advance(z, epsilon.float(), torch.tensor(index, device=z0.device))
        return z


def flops_of_a_step(config: DiffVQAConfig) -> int:
    """Of the network without folds, which is what both sides are credited with."""
    with torch.device("meta"):
        extractor = DiffVQA(config).extractor
    extractor.null_prompt = extractor.null_prompt.to("meta")
    z = torch.empty(len(VIEWS) * config.frames, *config.latent_shape, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        extractor.predict_noise(z, z, torch.zeros(1, dtype=torch.int64, device="meta"))
    return counter.get_total_flops()


def seconds_on_gpu(run, rounds: int) -> list[float]:
    for _ in range(2):
        run()
    times = []
    for _ in range(rounds):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop) / 1e3)
    return times


@pytest.fixture(scope="module")
def matrix_ceiling() -> float:
    """FLOP/s of a bfloat16 product of 8192³."""
    a, b = torch.randn(2, 8192, 8192, device="cuda", dtype=torch.bfloat16)
    return 2 * 8192**3 / statistics.median(seconds_on_gpu(lambda: a @ b, 20))


@pytest.fixture(scope="module")
def z0() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(len(VIEWS) * SD21.frames, *SD21.latent_shape, generator=generator).cuda()


@pytest.fixture(scope="module")
def eager() -> EagerLoop:
    return EagerLoop(random_network(SD21), torch.bfloat16, "cuda")


def report(benchmark, ceiling: float, baseline_seconds: list[float], seconds: list[float]) -> None:
    flops = SD21.sampler.steps * flops_of_a_step(SD21)
    achieved = flops / statistics.median(seconds)
    benchmark.group = f"denoise, sd21, bf16, {len(VIEWS) * SD21.frames} latents, {SD21.sampler.steps} steps"
    benchmark.extra_info |= {
        "gpu": torch.cuda.get_device_name(),
        "tflop": round(flops / 1e12, 1),
        "tflop_per_second": round(achieved / 1e12, 1),
        "matrix_tflop_per_second": round(ceiling / 1e12, 1),
        "share_of_matrix_product": round(achieved / ceiling, 3),
        "speedup_over_pytorch": round(statistics.median(baseline_seconds) / statistics.median(seconds), 3),
    }


def test_eager_torch(benchmark, matrix_ceiling, eager, z0):
    seconds = seconds_on_gpu(lambda: eager(z0), ROUNDS)
    benchmark.pedantic(lambda: (eager(z0), torch.cuda.synchronize()), rounds=3)
    report(benchmark, matrix_ceiling, seconds, seconds)


@pytest.mark.parametrize("backend", ENGINES)
def test_engine(benchmark, matrix_ceiling, eager, z0, backend, clip, tmp_path_factory):
    package = PACKAGES.get(backend)
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}")
    folder = tmp_path_factory.mktemp("engines") / "sd21"
    request = BuildRequest(weights=random_weights(SD21), backends=(backend,), precision="bf16", out=folder, clip=clip)
    build_engines(request, progress=print)
    try:
        step = open_engines(folder, backend)[1]["unet_controller"]
    except DeviceUnavailableError as error:
        pytest.skip(str(error))
    on_host = z0.cpu().numpy()[None]

    def run() -> None:
        denoise(step, on_host, SD21.sampler.steps)
        torch.cuda.synchronize()

    expected = eager(z0).cpu().numpy()
    actual = np.asarray(denoise(step, on_host, SD21.sampler.steps)["z_next"])[0]
    error = np.linalg.norm(actual - expected) / np.linalg.norm(expected)
    # Both are off from float32 by about as much.
    assert error < 2 * STAGES["unet_controller"].tolerances["bf16"].relative
    baseline, ours = [], []
    for _ in range(ROUNDS):  # in turns
        baseline += seconds_on_gpu(lambda: eager(z0), 1)
        ours += seconds_on_gpu(run, 1)
    benchmark.pedantic(run, rounds=3)
    report(benchmark, matrix_ceiling, baseline, ours)
