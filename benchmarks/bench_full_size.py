"""One denoising step at full size (`sd21`) on a CPU: the ONNX engine beside the same network in eager torch.

Takes some minutes and 16 GB of memory, so it runs only when it is asked for:

    pytest benchmarks/bench_full_size.py --benchmark-only -m slow
"""

import numpy as np
import onnxruntime
import pytest
import torch
from diffvqa_export.onnx_export import export_onnx
from diffvqa_export.stages import STAGES

from diffvqa_rt.config import VIEWS
from diffvqa_rt.engines import available_cpus
from diffvqa_rt.engines.onnx_backend import OnnxEngine, cpu_session_options
from diffvqa_rt.engines.torch_backend import TorchEngine
from diffvqa_rt.models.diffvqa import random_network
from diffvqa_rt.models.stages import stage_modules
from diffvqa_rt.presets import SD21
from diffvqa_rt.specs import engine_specs

ROUNDS = 5
NAME = "unet_controller"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_one_step_of_one_frame(benchmark, time_in_turns, tmp_path):
    spec = engine_specs(SD21)[NAME]
    module = stage_modules(random_network(SD21))[NAME]
    path = tmp_path / f"{NAME}.onnx"
    export_onnx(STAGES[NAME], module, SD21, spec, path, "")
    session = onnxruntime.InferenceSession(path, cpu_session_options(), providers=["CPUExecutionProvider"])
    torch.set_num_threads(available_cpus())
    ours, theirs = OnnxEngine(spec, session, available_cpus()), TorchEngine(spec, module)

    rng = np.random.default_rng(0)
    z, z0 = rng.standard_normal((2, 1, len(VIEWS), *SD21.latent_shape)).astype(np.float32)
    inputs = {"z": z, "z0": z0, "step": np.array([SD21.sampler.steps // 2])}
    expected = theirs(inputs)
    for name, actual in ours(inputs).items():
        error = np.linalg.norm(actual - expected[name]) / np.linalg.norm(expected[name])
        assert error < STAGES[NAME].tolerances["fp32"].relative, name

    benchmark.group = f"{NAME}, sd21, one step of one frame's two views"
    benchmark.extra_info["threads"] = available_cpus()
    time_in_turns(lambda: ours(inputs), {"pytorch": lambda: theirs(inputs)}, ROUNDS)
