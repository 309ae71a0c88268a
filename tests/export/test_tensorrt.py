"""TensorRT's plans: real ones of TensorRT for RTX, built without a GPU, and what a GPU makes of them."""

import types

import build_engines
import numpy as np
import onnx
import pytest

pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-bindings")

from diffvqa_export.backends import plan_from_onnx as plans
from diffvqa_export.backends.onnx_from_module import onnx_from_module
from diffvqa_export.backends.plan_from_onnx import RTX_ARCHITECTURES, PlanJob, plan_from_onnx
from diffvqa_export.backends.tensorrt import _graph_sha256
from export_jobs import job_of
from tensorrt_stand_ins import (
    FRAMES,
    PROFILE,
    SPECS,
    record_of,
)

from diffvqa_rt.chain import play
from diffvqa_rt.engines import cuda_memory, open_engines
from diffvqa_rt.engines.tensorrt_backend import open_plans
from diffvqa_rt.engines.tensorrt_library import load_library
from diffvqa_rt.errors import DeviceUnavailableError, EngineBuildError
from diffvqa_rt.metrics.diffvqa.engines import FEATURES
from diffvqa_rt.metrics.diffvqa.metric import METRIC
from diffvqa_rt.metrics.diffvqa.presets import TINY
from diffvqa_rt.models.diffvqa.network import random_network
from diffvqa_rt.models.diffvqa.stages import stage_modules
from diffvqa_rt.specs import Profile


class FakeBuilderConfig:
    """TensorRT's rules for a timing cache: one of another GPU cannot be set."""

    def __init__(self):
        self.cache = None

    def create_timing_cache(self, stored):
        return None if stored == b"damaged" else types.SimpleNamespace(content=stored)

    def set_timing_cache(self, cache, ignore_mismatch):
        assert not ignore_mismatch
        self.cache = cache
        return cache.content != b"of another GPU"


@pytest.mark.parametrize(
    ("stored", "used"), [(None, b""), (b"good", b"good"), (b"of another GPU", b""), (b"damaged", b"")]
)
def test_a_timing_cache_is_used_where_it_fits(tmp_path, stored, used):
    path = tmp_path / "timing"
    if stored is not None:
        path.write_bytes(stored)
    config = FakeBuilderConfig()
    assert plans._load_timing_cache(config, path) is config.cache
    assert config.cache.content == used


@pytest.mark.parametrize("wrong", [{"opt": 0}, {"opt": 5}, {"max": 0}])
def test_a_profile_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match="expected 1 ≤ opt ≤ max"):
        Profile(**wrong)


def build(onnx_path, name, out, runtime="tensorrt-rtx", provenance="p", **options):
    job = PlanJob(
        runtime=runtime,
        onnx_path=onnx_path,
        spec=SPECS[name],
        sizes={"frames": FRAMES},
        profile=PROFILE,
        path=out,
        provenance=provenance,
        timing_cache=out.with_name("timing"),
        **options,
    )
    return plan_from_onnx(job)


@pytest.fixture(scope="session")
def rtx():
    return pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx-cu13")


@pytest.fixture
def rtx_record(rtx, manifest):
    """The manifest's record of the `tiny` plans, built ahead of time for every architecture."""
    return manifest.backends["tensorrt-rtx"]


def weights_bytes(onnx_path):
    return sum(len(onnx.numpy_helper.to_array(t).tobytes()) for t in onnx.load(onnx_path).graph.initializer)


def test_rtx_builds_for_every_architecture_without_a_gpu(rtx, rtx_record):
    assert rtx_record.runtime == f"tensorrt-rtx {rtx.__version__}"
    assert rtx_record.device == ", ".join(RTX_ARCHITECTURES)
    assert rtx_record.scan == "Scan"  # the standard one: RTX has no plugins
    assert rtx_record.settings == {
        "max videos": "4",
        "tuned for videos": "1",
        "STRIP_PLAN": "off",
        "VERSION_COMPATIBLE": "off",
    }


@pytest.mark.parametrize("name", SPECS)
def test_one_plan_holds_the_weights_and_every_architecture(rtx_record, manifest, built_engines, name):
    plan = (built_engines / rtx_record.engines[name].file).read_bytes()
    assert len(plan) > 0.9 * weights_bytes(built_engines / "onnx" / f"{name}.onnx")
    assert all(architecture.replace("_", "").encode() in plan for architecture in RTX_ARCHITECTURES)
    assert manifest.provenance.encode() in plan


@pytest.mark.parametrize("name", SPECS)
def test_rtx_recognises_its_plans(rtx, rtx_record, built_engines, name):
    """Without a GPU its check ends at the GPU; a plan that is none does not come that far."""
    runtime = rtx.Runtime(load_library("tensorrt-rtx").log)
    plan = (built_engines / rtx_record.engines[name].file).read_bytes()
    malformed = int(rtx.EngineInvalidityDiagnostics.MALFORMED_ENGINE)
    assert not int(runtime.get_engine_validity(plan)[1]) & malformed
    assert int(runtime.get_engine_validity(b"\0" * len(plan))[1]) & malformed


def test_a_machine_without_a_gpu_says_so(rtx_record, built_engines, tmp_path, capsys):
    if cuda_memory.gpu_architecture() is not None:
        pytest.skip("there is a GPU")
    sentence = "the tensorrt-rtx engines need an NVIDIA GPU and its driver"
    assert rtx_record.parity is None and sentence in rtx_record.without_parity
    with pytest.raises(DeviceUnavailableError, match=sentence):
        open_engines(built_engines, "tensorrt-rtx")
    # What only a GPU's owner can build is refused before the long steps.
    command = ["--backend", "tensorrt-rtx", "--strip-weights", "--out", str(tmp_path / "out")]
    assert build_engines.main(command) == 1
    error = capsys.readouterr().err
    assert "needs an NVIDIA GPU and its driver to build plans without weights" in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_rtx_has_no_version_compatible_plans(rtx, built_engines, tmp_path):
    with pytest.raises(EngineBuildError, match="has no version-compatible plans; build them with --backend tensorrt"):
        build(built_engines / "onnx" / "head.onnx", "head", tmp_path / "head.plan", version_compatible=True)


def test_two_checkpoints_are_one_graph(built_engines, tmp_path):
    """A stripped plan serves both, since nothing but the weights tells their ONNX files apart."""
    for seed in (1, 2):
        module = stage_modules(random_network(TINY, seed))["vae_encoder"]
        job = job_of("vae_encoder", module, tmp_path / f"{seed}.onnx", provenance=f"weights {seed}")
        onnx_from_module(job)
    first, second = (tmp_path / f"{seed}.onnx" for seed in (1, 2))
    assert first.read_bytes() != second.read_bytes()
    renamed = onnx.load(second, load_external_data=False)
    for tensor in renamed.graph.initializer:
        for entry in tensor.external_data:
            entry.value = entry.value.replace("2.onnx", "1.onnx")
    onnx.save(renamed, second)
    assert _graph_sha256(first) == _graph_sha256(second)
    assert _graph_sha256(first) != _graph_sha256(built_engines / "onnx" / "head.onnx")


def test_what_the_parser_or_the_builder_refuses_is_one_sentence(rtx, built_engines, tmp_path, monkeypatch):
    tensor = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Nonsense", ["x"], ["y"], name="bad_node", domain="some.where")
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("some.where", 1)]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [tensor], [out]), opset_imports=opsets)
    onnx.save(model, tmp_path / "bad.onnx")
    with pytest.raises(EngineBuildError, match=r"tensorrt-rtx .* does not take Nonsense \(bad_node\) of .*bad.onnx: "):
        build(tmp_path / "bad.onnx", "head", tmp_path / "bad.plan")
    with pytest.raises(EngineBuildError, match=r"cannot read .*missing.onnx: .*Input file cannot be found"):
        build(tmp_path / "missing.onnx", "head", tmp_path / "bad.plan")
    encoder = built_engines / "onnx" / "vae_encoder.onnx"
    # The list of architectures has its reason in what happens with another.
    with monkeypatch.context() as patch:
        patch.setattr(plans, "RTX_ARCHITECTURES", ("sm_75",))
        with pytest.raises(EngineBuildError, match="vae_encoder from .* Turing .* FP32 GEMM"):
            build(encoder, "vae_encoder", tmp_path / "bad.plan")
    assert not (tmp_path / "bad.plan").exists()


# On a GPU.


@pytest.mark.gpu
@pytest.mark.parametrize(("runtime", "module"), [("tensorrt", "tensorrt"), ("tensorrt-rtx", "tensorrt_rtx")])
@pytest.mark.parametrize("is_stripped", [False, True])
def test_engines_on_a_gpu_agree_with_torch(runtime, module, is_stripped, manifest, built_engines, tmp_path):
    from diffvqa_rt.engines.torch_backend import torch_engines
    from diffvqa_rt.models.diffvqa.network import random_network

    if cuda_memory.gpu_architecture() is None:
        pytest.skip("needs an NVIDIA GPU")
    trt = pytest.importorskip(module)
    plans, files = {}, []
    for name in SPECS:
        for path in (built_engines / "onnx").glob(f"{name}.onnx*"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
            files += [path.name] if is_stripped else []
        options = {"runtime": runtime, "provenance": manifest.provenance, "strip_weights": is_stripped}
        plans[name] = build(tmp_path / f"{name}.onnx", name, tmp_path / f"{name}.plan", **options)
        files.append(f"{name}.plan")
    if is_stripped:
        assert (tmp_path / "unet_controller.plan").stat().st_size < 0.5 * weights_bytes(
            tmp_path / "unet_controller.onnx"
        )
    record = record_of(tmp_path, files, plans, f"{runtime} {trt.__version__}")
    engines = open_plans(tmp_path, manifest, record, 1, runtime=runtime)
    reference = torch_engines(SPECS, stage_modules(random_network(TINY)))
    chain = METRIC.chain(TINY)
    loop = chain[1]
    rng = np.random.default_rng(0)
    for videos in (1, 2, 1):
        frames = rng.uniform(-1, 1, (videos, FRAMES, 3, TINY.view_size, TINY.view_size)).astype(np.float32)
        z0 = reference["vae_encoder"]({"frames": frames})["z0"]
        expected = play((loop,), reference, {"z0": z0})
        close = {"rtol": 0, "atol": 1e-3 * float(np.abs(z0).max())}
        np.testing.assert_allclose(np.asarray(engines["vae_encoder"]({"frames": frames})["z0"]), z0, **close)
        for _ in range(2):  # step by step, then as a graph
            last = engines["unet_controller"].loop(loop, {"z0": z0})
            for name in ("z0_hat", *FEATURES):
                scale = float(np.abs(expected[name]).max())
                np.testing.assert_allclose(np.asarray(last[name]), expected[name], rtol=0, atol=2e-3 * scale)
        score = np.asarray(engines["head"]({**last, "frames": frames})["score"])
        np.testing.assert_allclose(score, play(chain, reference, {"frames": frames})["score"], rtol=0, atol=0.05)
