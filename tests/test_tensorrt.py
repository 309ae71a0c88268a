"""TensorRT without a GPU: real plans of TensorRT for RTX, and the runtime on stand-ins that compute in NumPy."""

import dataclasses
import hashlib
import types

import build_engines
import numpy as np
import onnx
import pytest

pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-bindings")

from diffvqa_export import tensorrt_build
from diffvqa_export.onnx_export import export_onnx
from diffvqa_export.stages import STAGES
from diffvqa_export.tensorrt_build import RTX_ARCHITECTURES, engine_from_onnx
from diffvqa_export.tensorrt_plans import _graph_sha256
from tensorrt_stand_ins import (
    FRAMES,
    PROFILE,
    SPECS,
    FakeContext,
    FakeCuda,
    FakeEngine,
    FakeLibrary,
    encode_in_numpy,
    step_in_numpy,
)

from diffvqa_rt.engines import cuda_memory, open_engines, tensorrt_backend
from diffvqa_rt.engines.cuda_memory import CudaError, DeviceArray
from diffvqa_rt.engines.manifest import PROVENANCE_KEY, BackendRecord, EngineRecord, Manifest
from diffvqa_rt.engines.tensorrt_backend import Gpu, TensorRTEngine, open_tensorrt
from diffvqa_rt.engines.tensorrt_library import PlanRecord, load_library
from diffvqa_rt.errors import DeviceUnavailableError, EngineBuildError, EngineMismatchError
from diffvqa_rt.models.diffvqa import random_network
from diffvqa_rt.models.stages import stage_modules
from diffvqa_rt.presets import TINY
from diffvqa_rt.scoring import denoise
from diffvqa_rt.specs import FEATURES, Profile, engine_specs


class NumpyStep:
    spec = SPECS["unet_controller"]

    def __call__(self, inputs, outputs=None):
        results = step_in_numpy(inputs)
        return {name: results[name] for name in outputs or results}


def latents(videos, seed=0):
    shape = (videos, FRAMES, *TINY.latent_shape)
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def assert_equal(actual, expected):
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(np.asarray(actual[name]), values, err_msg=name)


@pytest.fixture
def cuda(monkeypatch):
    fake = FakeCuda()
    monkeypatch.setattr(cuda_memory, "cudart", fake)
    return fake


@pytest.fixture
def library():
    return FakeLibrary()


@pytest.fixture
def gpu(cuda):
    return Gpu()


@pytest.fixture
def plan(cuda, library):
    return FakeEngine(SPECS["unet_controller"], cuda, library, step_in_numpy)


@pytest.fixture
def step_engine(plan, library, gpu):
    return TensorRTEngine(SPECS["unet_controller"], plan, library, gpu)


def step_inputs(videos=2, step=3, seed=0):
    return {"z": latents(videos, seed), "z0": latents(videos, seed + 1), "step": np.array([step])}


def test_an_engine_takes_arrays_from_host_and_device_and_leaves_its_outputs_there(step_engine, plan):
    inputs = step_inputs()
    results = step_engine(inputs)
    assert all(isinstance(array, DeviceArray) for array in results.values())
    assert_equal(results, step_in_numpy(inputs))
    on_device = {name: step_engine.to_device(array) for name, array in inputs.items()}
    assert_equal(step_engine(on_device), step_in_numpy(inputs))
    assert {plan.contexts[0].addresses[n] for n in inputs} == {array.address for array in on_device.values()}
    assert_equal(step_engine(inputs, ["features_1"]), {"features_1": step_in_numpy(inputs)["features_1"]})


def test_buffers_grow_with_the_videos_and_older_arrays_stay_readable(step_engine, cuda):
    small, large = step_inputs(1), step_inputs(4, seed=5)
    first = step_engine(small)
    assert_equal(step_engine(large), step_in_numpy(large))
    assert_equal(first, step_in_numpy(small))
    count = len(cuda.live)
    assert_equal(step_engine(small), step_in_numpy(small))
    assert len(cuda.live) == count


def test_what_an_engine_returned_can_be_its_next_input(step_engine):
    """Its outputs lie at fixed addresses, so an engine would read where it writes."""
    z, z0, expected = latents(2), latents(2, 1), latents(2)
    for step in range(3):
        z = step_engine({"z": z, "z0": z0, "step": np.array([step])})["z_next"]
        expected = step_in_numpy({"z": expected, "z0": z0, "step": np.array([step])})["z_next"]
    np.testing.assert_array_equal(np.asarray(z), expected)


@pytest.mark.parametrize("steps", [1, 2, 9, 10])
def test_denoise_is_the_loop_over_the_steps_and_later_one_graph(step_engine, plan, cuda, steps):
    for call, seed in enumerate((0, 1, 2)):
        z0 = latents(2, seed)
        assert_equal(step_engine.denoise(z0, steps), denoise(NumpyStep(), z0, steps))
        assert (plan.runs, cuda.launches) == (2 * steps, call)  # played and captured once, then replayed
    assert_equal(step_engine.denoise(step_engine.to_device(z0), steps), denoise(NumpyStep(), z0, steps))


def test_every_step_has_a_device_address_of_its_own_number(step_engine, plan, cuda, monkeypatch):
    seen = []
    set_address = FakeContext.set_tensor_address

    def record(context, name, address):
        if name == "step":
            seen.append(int(cuda.view(address, 8).view(np.int64)[0]))
        return set_address(context, name, address)

    monkeypatch.setattr(FakeContext, "set_tensor_address", record)
    for steps in (2, 5, 3):
        seen.clear()
        step_engine.denoise(latents(1), steps)
        assert seen == [*range(steps), *range(steps)]


def test_a_graph_is_captured_again_when_memory_has_moved(step_engine, plan, library, cuda, gpu):
    one, three = latents(1), latents(3, 1)
    for z0 in (one, one, three, three, one, one):
        assert_equal(step_engine.denoise(z0, 4), denoise(NumpyStep(), z0, 4))
    assert cuda.launches == 3  # of `one` once, `three` once, and `one` again after the buffers had grown
    # Another engine that needs more working memory moves that, too.
    encoder_plan = FakeEngine(SPECS["vae_encoder"], cuda, library, encode_in_numpy)
    encoder_plan.scratch_bytes = 100_000
    encoder = TensorRTEngine(SPECS["vae_encoder"], encoder_plan, library, gpu)
    frames = np.random.default_rng(0).random((1, FRAMES, 3, 192, 192), dtype=np.float32)
    z0 = encoder({"frames": frames})["z0"]
    assert_equal(step_engine.denoise(z0, 4), denoise(NumpyStep(), encode_in_numpy({"frames": frames})["z0"], 4))
    assert cuda.launches == 3
    assert_equal(step_engine.denoise(one, 4), denoise(NumpyStep(), one, 4))
    assert cuda.launches == 4


def test_calls_between_two_denoisings_do_no_harm(step_engine):
    z0, inputs = latents(2), step_inputs(2, seed=3)
    for _ in range(3):
        assert_equal(step_engine.denoise(z0, 3), denoise(NumpyStep(), z0, 3))
        assert_equal(step_engine(inputs), step_in_numpy(inputs))


def test_what_cannot_be_captured_runs_step_by_step_and_says_so(step_engine, plan, cuda, caplog):
    plan.is_capturable = False
    for seed in range(2):
        z0 = latents(1, seed)
        assert_equal(step_engine.denoise(z0, 4), denoise(NumpyStep(), z0, 4))
    assert (plan.runs, cuda.launches) == (8, 0)
    assert "cannot capture unet_controller" in caplog.text


def test_failures_are_sentences(step_engine, plan, cuda):
    with pytest.raises(
        ValueError, match=r"built for z from \(1, 16, 4, 24, 24\) to \(4, 16, .* fewer videos at a time"
    ):
        step_engine(step_inputs(5))
    with pytest.raises(ValueError, match="unet_controller takes z as float32"):
        step_engine.denoise(latents(1).astype(np.float64), 2)
    assert step_engine.max_videos == 4
    plan.is_broken = True
    with pytest.raises(tensorrt_backend.EngineRunError, match="could not run the engine: it broke"):
        step_engine(step_inputs(1))
    cuda.memory_bytes = 0
    with pytest.raises(CudaError, match="CUDA failed: out of memory"):
        step_engine(step_inputs(4))


def test_a_capture_that_fails_leaves_the_stream_usable(gpu, cuda):
    def fail():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        gpu.stream.capture(fail)
    gpu.stream.synchronize()


def test_device_memory_is_freed_with_its_last_array(cuda, gpu):
    before = len(cuda.live)
    array = DeviceArray.from_host(np.arange(6.0).reshape(2, 3), gpu.stream)
    assert (array.shape, array.ndim, array.dtype, array.nbytes) == ((2, 3), 2, np.float64, 48)
    assert np.asarray(array, np.float32).tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(array, copy=False)
    del array
    assert len(cuda.live) == before


# Opening.


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def record_of(folder, files, plans, runtime="tensorrt-rtx 0.0"):
    """A backend's record, of plans by engine name."""
    head = plans["head"]
    return BackendRecord(
        runtime=runtime,
        precision="fp32",
        device=head.device,
        scan=head.scan,
        settings=head.settings,
        files={file: sha256(folder / file) for file in files},
        engines={
            name: EngineRecord(file=f"{name}.plan", inputs=spec.inputs, outputs=spec.outputs)
            for name, spec in SPECS.items()
        },
        parity=None,
    )


def graph(name, provenance, data_file=None):
    """An ONNX file that keeps a tensor beside it."""
    tensor = onnx.TensorProto(name=f"weight of {name}", data_type=onnx.TensorProto.FLOAT, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=data_file or f"{name}.onnx.data")
    model = onnx.helper.make_model(onnx.helper.make_graph([], name, [], [], initializer=[tensor]))
    model.metadata_props.add(key=PROVENANCE_KEY, value=provenance)
    return model.SerializeToString()


@pytest.fixture
def folder(tmp_path, manifest):
    for name in SPECS:
        (tmp_path / f"{name}.plan").write_bytes(f"plan of {name}".encode())
        (tmp_path / f"{name}.onnx").write_bytes(graph(name, manifest.provenance))
        (tmp_path / f"{name}.onnx.data").write_bytes(f"weights of {name}".encode())
    return tmp_path


@pytest.fixture
def manifest(built_engines):
    return Manifest.read(built_engines)


@pytest.fixture
def openable(folder, manifest, cuda, library, monkeypatch):
    """(library, record) of a folder that opens."""
    computes = {"vae_encoder": encode_in_numpy, "unet_controller": step_in_numpy, "head": None}
    for name, spec in SPECS.items():
        plan = FakeEngine(spec, cuda, library, computes[name], manifest.provenance)
        library.engines[f"plan of {name}".encode()] = plan
    monkeypatch.setattr(tensorrt_backend, "load_library", lambda runtime: library)
    plan = PlanRecord(architectures=("sm_86", "sm_89"), is_stripped=False, is_version_compatible=False, scan="Scan")
    plans = dict.fromkeys(SPECS, plan)
    return library, record_of(folder, [f"{name}.plan" for name in SPECS], plans)


def test_an_engine_folder_opens(folder, manifest, openable):
    engines = open_tensorrt(folder, manifest, openable[1], "tensorrt-rtx")
    assert list(engines) == list(SPECS)
    frames = np.random.default_rng(0).random((2, FRAMES, 3, 192, 192), dtype=np.float32)
    z0 = engines["vae_encoder"]({"frames": frames})["z0"]
    expected = denoise(NumpyStep(), encode_in_numpy({"frames": frames})["z0"], 3)
    assert_equal(engines["unet_controller"].denoise(z0, 3), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"capability": None}, "need an NVIDIA GPU and its driver, and none was found; use the onnx backend"),
        ({"capability": (9, 0)}, "built for sm_86, sm_89, and this GPU is sm_90; use the tensorrt backend on it"),
        (
            {"runtime": "tensorrt-rtx 0.1"},
            "of tensorrt-rtx 0.1, and tensorrt-rtx 0.0 is installed; install that version, or build them here",
        ),
        ({"name": "other"}, "vae_encoder.plan was built from another network or other weights than manifest.json says"),
        ({"opens": False}, "cannot open .*vae_encoder.plan: bad header; build them here"),
        ({"content": b"forged"}, "head.plan was changed after it was built"),
    ],
)
def test_what_cannot_run_here_is_refused_with_what_to_do(folder, manifest, openable, cuda, change, message):
    library, record = openable
    cuda.capability = change.get("capability", cuda.capability)
    record = dataclasses.replace(record, runtime=change.get("runtime", record.runtime))
    for plan in library.engines.values():
        plan.name = change.get("name", plan.name)
    if not change.get("opens", True):
        library.engines.clear()
    if "content" in change:
        (folder / "head.plan").write_bytes(change["content"])
    with pytest.raises(EngineMismatchError, match=message):
        open_tensorrt(folder, manifest, record, "tensorrt-rtx")


def test_full_tensorrt_is_to_be_built_on_the_gpu_that_runs_it(folder, manifest, openable, cuda):
    library, record = openable
    library.is_rtx, cuda.capability = False, (9, 0)
    with pytest.raises(EngineMismatchError, match=r"is sm_90; build them here: .* --backend tensorrt$"):
        open_tensorrt(folder, manifest, record, "tensorrt")


def test_a_stripped_plan_takes_the_weights_beside_it_verified(folder, manifest, openable):
    library, _ = openable
    for plan in library.engines.values():
        plan.name = ""  # a plan of no weights
    stripped = PlanRecord(architectures=("sm_89",), is_stripped=True, is_version_compatible=False, scan="Scan")
    files = [f"{name}.{suffix}" for name in SPECS for suffix in ("plan", "onnx", "onnx.data")]

    def open_as_listed():
        return open_tensorrt(folder, manifest, record_of(folder, files, dict.fromkeys(SPECS, stripped)), "tensorrt-rtx")

    open_as_listed()
    assert library.refitted == [(graph(n, manifest.provenance), f"weights of {n}".encode()) for n in SPECS]
    record = record_of(folder, files, dict.fromkeys(SPECS, stripped))
    (folder / "head.onnx.data").write_bytes(b"forged")
    with pytest.raises(EngineMismatchError, match=r"head.onnx.data was changed"):
        open_tensorrt(folder, manifest, record, "tensorrt-rtx")

    first = folder / "vae_encoder.onnx"
    for content, message in (
        (graph("vae_encoder", "other"), "vae_encoder.plan was built from another network or other weights than"),
        (
            graph("foreign", manifest.provenance, "vae_encoder.onnx.data"),
            "into .*vae_encoder.plan: a weight is missing",
        ),
        (graph("vae_encoder", manifest.provenance, "/etc/passwd"), "keeps weights in '/etc/passwd', which"),
    ):
        first.write_bytes(content)
        with pytest.raises(EngineMismatchError, match=message):
            open_as_listed()


# Building.


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
    path = tmp_path / "cache" / "timing"
    if stored is not None:
        tensorrt_build._write_atomically(path, stored)
    config = FakeBuilderConfig()
    assert tensorrt_build._load_timing_cache(config, path) is config.cache
    assert config.cache.content == used
    tensorrt_build._write_atomically(path, b"filled")
    assert [(p.name, p.read_bytes()) for p in path.parent.iterdir()] == [("timing", b"filled")]


@pytest.mark.parametrize("wrong", [{"opt": 0}, {"opt": 5}, {"max": 0}])
def test_a_profile_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match="expected 1 ≤ opt ≤ max"):
        Profile(**wrong)


def build(onnx_path, name, out, runtime="tensorrt-rtx", provenance="p", **options):
    return engine_from_onnx(
        runtime,
        onnx_path,
        SPECS[name],
        FRAMES,
        PROFILE,
        out,
        provenance=provenance,
        timing_cache=out.with_name("timing"),
        **options,
    )


@pytest.fixture(scope="session")
def rtx():
    return pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx-cu13")


@pytest.fixture
def rtx_record(rtx, manifest):
    """What `build_engines.py` says of the `tiny` plans, built ahead of time for every architecture."""
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
    """What makes a stripped plan serve both: nothing but the weights tells their ONNX files apart."""
    specs = engine_specs(TINY)
    for seed in (1, 2):
        module = stage_modules(random_network(TINY, seed))["vae_encoder"]
        export_onnx(
            STAGES["vae_encoder"], module, TINY, specs["vae_encoder"], tmp_path / f"{seed}.onnx", f"weights {seed}"
        )
    first, second = (tmp_path / f"{seed}.onnx" for seed in (1, 2))
    assert first.read_bytes() != second.read_bytes()
    renamed = onnx.load(second, load_external_data=False)
    for tensor in renamed.graph.initializer:
        for entry in tensor.external_data:
            entry.value = entry.value.replace("2.onnx", "1.onnx")
    onnx.save(renamed, second)
    assert _graph_sha256(first) == _graph_sha256(second)
    assert _graph_sha256(first) != _graph_sha256(built_engines / "onnx" / "head.onnx")


def test_a_version_compatible_plan_opens_in_another_version(folder, manifest, openable):
    library, record = openable
    settings = {"STRIP_PLAN": "off", "VERSION_COMPATIBLE": "on"}
    record = dataclasses.replace(record, runtime="tensorrt 0.1", settings=settings)
    library.is_rtx = False
    assert list(open_tensorrt(folder, manifest, record, "tensorrt")) == list(SPECS)


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
        patch.setattr(tensorrt_build, "RTX_ARCHITECTURES", ("sm_75",))
        with pytest.raises(EngineBuildError, match="vae_encoder from .* Turing .* FP32 GEMM"):
            build(encoder, "vae_encoder", tmp_path / "bad.plan")
    assert not (tmp_path / "bad.plan").exists()


# On a GPU.


@pytest.mark.gpu
@pytest.mark.parametrize(("runtime", "module"), [("tensorrt", "tensorrt"), ("tensorrt-rtx", "tensorrt_rtx")])
@pytest.mark.parametrize("is_stripped", [False, True])
def test_engines_on_a_gpu_agree_with_torch(runtime, module, is_stripped, manifest, built_engines, tmp_path):
    from diffvqa_rt.engines.torch_backend import torch_engines
    from diffvqa_rt.models.diffvqa import random_network
    from diffvqa_rt.scoring import play

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
    engines = open_tensorrt(tmp_path, manifest, record, runtime)
    reference = torch_engines(random_network(TINY))
    rng = np.random.default_rng(0)
    steps = TINY.sampler.steps
    for videos in (1, 2, 1):
        frames = rng.uniform(-1, 1, (videos, FRAMES, 3, TINY.view_size, TINY.view_size)).astype(np.float32)
        z0 = reference["vae_encoder"]({"frames": frames})["z0"]
        expected = denoise(reference["unet_controller"], z0, steps)
        close = {"rtol": 0, "atol": 1e-3 * float(np.abs(z0).max())}
        np.testing.assert_allclose(np.asarray(engines["vae_encoder"]({"frames": frames})["z0"]), z0, **close)
        for _ in range(2):  # step by step, then as a graph
            last = engines["unet_controller"].denoise(z0, steps)
            for name in ("z_next", *FEATURES):
                scale = float(np.abs(expected[name]).max())
                np.testing.assert_allclose(np.asarray(last[name]), expected[name], rtol=0, atol=2e-3 * scale)
        inputs = {"z0_hat": last["z_next"], **{name: last[name] for name in FEATURES}, "frames": frames}
        score = np.asarray(engines["head"](inputs)["score"])
        np.testing.assert_allclose(score, play(reference, frames, steps)["score"], rtol=0, atol=0.05)
