"""The denoising loop at full size on a GPU: `sd21` in bfloat16, one video of 8 frames and 2 views, all ten steps.

The baseline is the network as one writes it with diffusers, in eager torch: bfloat16, channels last, the timestep's and
the text's share of every block computed in every step. Beside it each engine that the machine can build. Every row says
its arithmetic, its TFLOP/s, and the share of what a large matrix product reaches on the same GPU.

    pytest benchmarks/bench_denoise_gpu.py --benchmark-only -m gpu
"""

import importlib.util

import numpy as np
import pytest
import torch
from arithmetic import Arithmetic, chain_arithmetic
from ceilings import Ceilings, time_with_shares, waited_for
from diffvqa_export.build import build_engines
from diffvqa_export.context import BuildRequest
from diffvqa_export.diffvqa.stages import STAGES
from diffvqa_export.weights import random_weights
from providers import BASELINE

from diffvqa_rt.chain import play
from diffvqa_rt.engines import BackendName, open_engines
from diffvqa_rt.errors import DeviceUnavailableError
from diffvqa_rt.metrics.diffvqa.config import VIEWS
from diffvqa_rt.metrics.diffvqa.metric import METRIC
from diffvqa_rt.metrics.diffvqa.presets import SD21
from diffvqa_rt.models.diffvqa.network import DiffVQA, random_network
from diffvqa_rt.models.diffvqa.stages import stage_modules
from diffvqa_rt.sampler import timesteps

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

ROUNDS = 10
GROUP = f"denoise: all {SD21.sampler.steps} steps of one video, sd21, bfloat16, on a GPU"
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


@pytest.fixture(scope="module")
def ceilings() -> Ceilings:
    return Ceilings.of("cuda", torch.bfloat16, side=8192, copied_bytes=2**32)


@pytest.fixture(scope="module")
def work() -> Arithmetic:
    """All steps' work. Both are credited with the network that has its folds, though eager torch computes more."""
    return chain_arithmetic("diffvqa", SD21, names=["unet_controller"], precision="bf16")["denoise"]


@pytest.fixture(scope="module")
def z0() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(len(VIEWS) * SD21.frames, *SD21.latent_shape, generator=generator).cuda()


@pytest.fixture(scope="module")
def eager() -> EagerLoop:
    return EagerLoop(random_network(SD21), torch.bfloat16, "cuda")


@pytest.mark.parametrize("provider", [BASELINE])
def test_eager_torch(benchmark, time_in_turns, ceilings, work, eager, z0, provider):
    run = waited_for(lambda: eager(z0), "cuda")
    run()
    benchmark.group = GROUP
    time_with_shares(benchmark, time_in_turns, run, {}, work, ceilings, ROUNDS)
    benchmark.extra_info["baseline"] = True


@pytest.mark.parametrize("provider", ENGINES)
def test_engine(benchmark, time_in_turns, ceilings, work, eager, z0, provider, clip, tmp_path_factory):
    backend = provider
    package = PACKAGES.get(backend)
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}")
    folder = tmp_path_factory.mktemp("engines") / "sd21"
    request = BuildRequest(weights=random_weights(SD21), backends=(backend,), precision="bf16", out=folder, clip=clip)
    build_engines(request, progress=print)
    try:
        engines = open_engines(folder, backend)[1]
    except DeviceUnavailableError as error:
        pytest.skip(str(error))
    on_host = z0.cpu().numpy()[None]

    loop = METRIC.chain(SD21)[1:2]
    run = waited_for(lambda: play(loop, engines, {"z0": on_host}), "cuda")
    expected = eager(z0).cpu().numpy()
    actual = play(loop, engines, {"z0": on_host})["z0_hat"][0]
    error = np.linalg.norm(actual - expected) / np.linalg.norm(expected)
    # Both are off from float32 by about as much.
    assert error < 2 * STAGES["unet_controller"].tolerances["bf16"].relative
    baselines = {BASELINE: waited_for(lambda: eager(z0), "cuda")}
    benchmark.group = GROUP
    time_with_shares(benchmark, time_in_turns, run, baselines, work, ceilings, ROUNDS)
