"""TensorRT's runtime without a GPU, on stand-ins that compute in NumPy: engines, and the folders they open from."""

import dataclasses

import numpy as np
import onnx
import pytest

pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-bindings")

from tensorrt_stand_ins import (
    FRAMES,
    SPECS,
    FakeContext,
    FakeCuda,
    FakeEngine,
    FakeLibrary,
    encode_in_numpy,
    loop_of,
    record_of,
    step_in_numpy,
)

from diffvqa_rt.chain import run_loop
from diffvqa_rt.engines import cuda_memory, tensorrt_backend
from diffvqa_rt.engines.cuda_memory import Allocation, CudaError, DeviceArray
from diffvqa_rt.engines.manifest import PROVENANCE_KEY
from diffvqa_rt.engines.tensorrt_backend import Gpu, TensorRTEngine, open_tensorrt, open_tensorrt_rtx
from diffvqa_rt.engines.tensorrt_library import PlanRecord
from diffvqa_rt.errors import EngineMismatchError
from diffvqa_rt.metrics.diffvqa.presets import TINY


class NumpyStep:
    spec = SPECS["unet_controller"]

    def __call__(self, inputs, outputs=None):
        results = step_in_numpy(inputs)
        return {name: results[name] for name in outputs or results}


def looped(engine, z0, turns):
    return engine.loop(loop_of(turns), {"z0": z0})


def turn_by_turn(z0, turns):
    return run_loop(loop_of(turns), NumpyStep(), {"z0": z0})


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


def on_gpu(array, gpu):
    on_device = DeviceArray(Allocation(array.nbytes), array.shape, array.dtype, gpu.stream)
    gpu.stream.upload(on_device.address, array)
    return on_device


def step_inputs(videos=2, step=3, seed=0):
    return {"z": latents(videos, seed), "z0": latents(videos, seed + 1), "step": np.array([step])}


def test_an_engine_takes_arrays_from_host_and_device_and_leaves_its_outputs_there(step_engine, plan, gpu):
    inputs = step_inputs()
    results = step_engine(inputs)
    assert all(isinstance(array, DeviceArray) for array in results.values())
    assert_equal(results, step_in_numpy(inputs))
    on_device = {name: on_gpu(array, gpu) for name, array in inputs.items()}
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
def test_a_loop_runs_turn_by_turn_and_later_as_one_graph(step_engine, plan, cuda, gpu, steps):
    for call, seed in enumerate((0, 1, 2)):
        z0 = latents(2, seed)
        assert_equal(looped(step_engine, z0, steps), turn_by_turn(z0, steps))
        assert (plan.runs, cuda.launches) == (2 * steps, call)  # played and captured once, then replayed
    assert_equal(looped(step_engine, on_gpu(z0, gpu), steps), turn_by_turn(z0, steps))


@pytest.mark.parametrize("turns", [2, 3, 6, 7])
def test_a_loop_keeps_what_earlier_turns_gave(step_engine, cuda, turns):
    """As diffusion restoration does, whose intermediate images guide what follows."""
    keep = {"last": ("z_next", turns - 1), "early": ("z_next", 0), "map": ("features_2", turns - 2)}
    loop = loop_of(turns, keep)
    for call, seed in enumerate((0, 1, 2)):
        tensors = {"z0": latents(2, seed)}
        assert_equal(step_engine.loop(loop, tensors), run_loop(loop, NumpyStep(), tensors))
        assert cuda.launches == call


def test_another_loop_over_the_same_engine_is_another_graph(step_engine, cuda):
    z0 = latents(1)
    for keep in ({"kept": ("z_next", 0)}, {"kept": ("z_next", 1)}):
        for _ in range(2):
            assert_equal(
                step_engine.loop(loop_of(4, keep), {"z0": z0}), run_loop(loop_of(4, keep), NumpyStep(), {"z0": z0})
            )
    assert cuda.launches == 2


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
        looped(step_engine, latents(1), steps)
        assert seen == [*range(steps), *range(steps)]


def test_a_graph_is_captured_again_when_memory_has_moved(step_engine, plan, library, cuda, gpu):
    one, three = latents(1), latents(3, 1)
    for z0 in (one, one, three, three, one, one):
        assert_equal(looped(step_engine, z0, 4), turn_by_turn(z0, 4))
    assert cuda.launches == 3  # of `one` once, `three` once, and `one` again after the buffers had grown
    # Another engine that needs more working memory moves that, too.
    encoder_plan = FakeEngine(SPECS["vae_encoder"], cuda, library, encode_in_numpy)
    encoder_plan.scratch_bytes = 100_000
    encoder = TensorRTEngine(SPECS["vae_encoder"], encoder_plan, library, gpu)
    frames = np.random.default_rng(0).random((1, FRAMES, 3, 192, 192), dtype=np.float32)
    z0 = encoder({"frames": frames})["z0"]
    assert_equal(looped(step_engine, z0, 4), turn_by_turn(encode_in_numpy({"frames": frames})["z0"], 4))
    assert cuda.launches == 3
    assert_equal(looped(step_engine, one, 4), turn_by_turn(one, 4))
    assert cuda.launches == 4


def test_calls_between_two_denoisings_do_no_harm(step_engine):
    z0, inputs = latents(2), step_inputs(2, seed=3)
    for _ in range(3):
        assert_equal(looped(step_engine, z0, 3), turn_by_turn(z0, 3))
        assert_equal(step_engine(inputs), step_in_numpy(inputs))


def test_what_cannot_be_captured_runs_step_by_step_and_says_so(step_engine, plan, cuda, caplog):
    plan.is_capturable = False
    for seed in range(2):
        z0 = latents(1, seed)
        assert_equal(looped(step_engine, z0, 4), turn_by_turn(z0, 4))
    assert (plan.runs, cuda.launches) == (8, 0)
    assert "cannot capture unet_controller" in caplog.text


def test_failures_are_sentences(step_engine, plan, cuda):
    with pytest.raises(
        ValueError, match=r"built for z from \(1, 16, 4, 24, 24\) to \(4, 16, .* fewer videos at a time"
    ):
        step_engine(step_inputs(5))
    with pytest.raises(ValueError, match="unet_controller takes z as float32"):
        looped(step_engine, latents(1).astype(np.float64), 2)
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
    array = on_gpu(np.arange(6.0).reshape(2, 3), gpu)
    assert (array.shape, array.ndim, array.dtype, array.nbytes) == ((2, 3), 2, np.float64, 48)
    assert np.asarray(array, np.float32).tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(array, copy=False)
    del array
    assert len(cuda.live) == before


# Opening.


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
    engines = open_tensorrt_rtx(folder, manifest, openable[1], 1)
    assert list(engines) == list(SPECS)
    frames = np.random.default_rng(0).random((2, FRAMES, 3, 192, 192), dtype=np.float32)
    z0 = engines["vae_encoder"]({"frames": frames})["z0"]
    expected = turn_by_turn(encode_in_numpy({"frames": frames})["z0"], 3)
    assert_equal(looped(engines["unet_controller"], z0, 3), expected)


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
        open_tensorrt_rtx(folder, manifest, record, 1)


def test_full_tensorrt_is_to_be_built_on_the_gpu_that_runs_it(folder, manifest, openable, cuda):
    library, record = openable
    library.is_rtx, cuda.capability = False, (9, 0)
    with pytest.raises(EngineMismatchError, match=r"is sm_90; build them here: .* --backend tensorrt$"):
        open_tensorrt(folder, manifest, record, 1)


def test_a_stripped_plan_takes_the_weights_beside_it_verified(folder, manifest, openable):
    library, _ = openable
    for plan in library.engines.values():
        plan.name = ""  # a plan of no weights
    stripped = PlanRecord(architectures=("sm_89",), is_stripped=True, is_version_compatible=False, scan="Scan")
    files = [f"{name}.{suffix}" for name in SPECS for suffix in ("plan", "onnx", "onnx.data")]

    def open_as_listed():
        return open_tensorrt_rtx(folder, manifest, record_of(folder, files, dict.fromkeys(SPECS, stripped)), 1)

    open_as_listed()
    assert library.refitted == [(graph(n, manifest.provenance), f"weights of {n}".encode()) for n in SPECS]
    record = record_of(folder, files, dict.fromkeys(SPECS, stripped))
    (folder / "head.onnx.data").write_bytes(b"forged")
    with pytest.raises(EngineMismatchError, match=r"head.onnx.data was changed"):
        open_tensorrt_rtx(folder, manifest, record, 1)

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


def test_a_version_compatible_plan_opens_in_another_version(folder, manifest, openable):
    library, record = openable
    settings = {"STRIP_PLAN": "off", "VERSION_COMPATIBLE": "on"}
    record = dataclasses.replace(record, runtime="tensorrt 0.1", settings=settings)
    library.is_rtx = False
    assert list(open_tensorrt(folder, manifest, record, 1)) == list(SPECS)
