"""One denoising step at full size (`sd21`) on a CPU: the ONNX engine beside the same network in eager torch.

Takes some minutes and 16 GB of memory, so it runs only when it is asked for:

    pytest benchmarks/bench_full_size.py --benchmark-only -m slow
"""

import numpy as np
import pytest
from arithmetic import stage_arithmetic
from diffvqa_export.diffvqa.stages import STAGES
from providers import BASELINE, exported_beside_torch

from diffvqa_rt.metrics.diffvqa.config import VIEWS
from diffvqa_rt.metrics.diffvqa.presets import SD21

ROUNDS = 5
NAME = "unet_controller"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    return exported_beside_torch(SD21, NAME, tmp_path_factory.mktemp("sd21"))


@pytest.mark.parametrize("provider", ["onnxruntime", BASELINE])
def test_one_step_of_one_frame(benchmark, time_in_turns, engines, provider):
    rng = np.random.default_rng(0)
    z, z0 = rng.standard_normal((2, 1, len(VIEWS), *SD21.latent_shape)).astype(np.float32)
    inputs = {"z": z, "z0": z0, "step": np.array([SD21.sampler.steps // 2])}
    expected = engines[BASELINE](inputs)
    for name, actual in engines[provider](inputs).items():
        error = np.linalg.norm(actual - expected[name]) / np.linalg.norm(expected[name])
        assert error < STAGES[NAME].tolerances["fp32"].relative, name

    benchmark.group = f"{NAME}: one step of one frame's two views, sd21, float32"
    baselines = {} if provider == BASELINE else {BASELINE: lambda: engines[BASELINE](inputs)}
    time_in_turns(lambda: engines[provider](inputs), baselines, ROUNDS, is_warm=True)
    flops = stage_arithmetic(SD21, frames=1, names=[NAME])[NAME].flops
    benchmark.extra_info["flops"] = flops
    if benchmark.enabled:
        benchmark.extra_info["flops_per_second"] = round(flops / benchmark.stats.stats.median)
