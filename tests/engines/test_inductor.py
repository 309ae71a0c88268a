"""The `aot-inductor` backend: what a package computes, what it needs, and what is refused before its code is loaded."""

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import build_engines
import diffvqa_export
import numpy as np
import pytest
import torch
from diffvqa_export.backends.package_from_module import package_from_module
from diffvqa_export.diffvqa.stages import STAGES
from diffvqa_export.precision import write_precision
from export_jobs import job_of

from diffvqa_rt import Scorer
from diffvqa_rt.chain import run_loop
from diffvqa_rt.engines import inductor_backend
from diffvqa_rt.engines.inductor_backend import TensorArray, open_inductor
from diffvqa_rt.engines.manifest import BackendRecord, BuildRecord, EngineRecord, Manifest, WeightsRecord
from diffvqa_rt.engines.torch_backend import TorchEngine
from diffvqa_rt.errors import EngineBuildError, EngineMismatchError
from diffvqa_rt.metrics.diffvqa.engines import engine_specs
from diffvqa_rt.metrics.diffvqa.metric import METRIC
from diffvqa_rt.metrics.diffvqa.presets import TINY
from diffvqa_rt.models.diffvqa.network import random_network
from diffvqa_rt.models.diffvqa.stages import stage_modules
from diffvqa_rt.models.weights import weights_sha256

# The whole structure: `tiny` with fewer, smaller frames and one scan layer a view.
SMALL = dataclasses.replace(
    TINY,
    name="small",
    frames=2,
    view_size=64,
    head=dataclasses.replace(TINY.head, tcab=dataclasses.replace(TINY.head.tcab, depth=1)),
)

CONFIGS = {config.name: config for config in (SMALL, TINY)}


@dataclasses.dataclass(frozen=True)
class Packages:
    """Packages in a folder, and how the manifest describes them."""

    folder: Path
    manifest: Manifest
    record: BackendRecord
    modules: dict[str, torch.nn.Module]

    def open(self):
        return open_inductor(self.folder, self.manifest, self.record, threads=1)

    @property
    def specs(self):
        specs = engine_specs(self.manifest.config)
        return {name: specs[name] for name in self.record.engines}


def described(config, network, folder):
    """The packages in the folder, with the records that a manifest has of them."""
    specs = {name: spec for name, spec in engine_specs(config).items() if (folder / f"{name}.pt2").exists()}
    manifest = Manifest(
        config=config,
        weights=WeightsRecord(sha256=weights_sha256(network), is_trained=False, source="random, seed 0"),
        build=BuildRecord(date="", machine="", commit="", versions={}),
        backends={},
    )
    files = [f"{name}.pt2" for name in specs]
    record = BackendRecord(
        runtime=f"torch {torch.__version__}",
        precision="fp32",
        device="cpu",
        scan="compiled",
        settings={},
        files={file: sha256(folder / file) for file in files},
        engines={n: EngineRecord(file=f"{n}.pt2", inputs=s.inputs, outputs=s.outputs) for n, s in specs.items()},
        parity=None,
    )
    return Packages(folder, manifest, record, stage_modules(network))


def build(config, folder, stages=tuple(STAGES), device="cpu"):
    network = random_network(config)
    provenance = described(config, network, folder).manifest.provenance
    modules = stage_modules(network.to(device))
    for name in stages:
        package_from_module(job_of(name, modules[name], folder / f"{name}.pt2", config=config, provenance=provenance))
    return described(config, random_network(config), folder)


BUILD_ELSEWHERE = """
import sys
sys.path[:0] = sys.argv[1:4]
import test_inductor
test_inductor.build(test_inductor.CONFIGS[sys.argv[4]], test_inductor.Path(sys.argv[5]), sys.argv[6:])
"""


def build_elsewhere(config, folder, *stages, **environment):
    """Builds packages in a process of their own."""
    here = Path(__file__)
    places = [str(here.parent), str(here.parents[1]), str(Path(diffvqa_export.__file__).parents[1])]
    command = [sys.executable, "-c", BUILD_ELSEWHERE, *places, config.name, str(folder), *stages]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


def build_in_two_processes(config, folder, first, second):
    # Inductor's Python is what takes the time: a quarter of a minute for the encoder, and three for `tiny`'s step.
    with ThreadPoolExecutor() as pool:
        builds = [pool.submit(build_elsewhere, config, folder, *stages) for stages in (first, second)]
    for done in builds:
        assert done.result().returncode == 0, done.result().stderr
    return described(config, random_network(config), folder)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return build_in_two_processes(SMALL, tmp_path_factory.mktemp("small"), ["vae_encoder"], ["head"])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return build_in_two_processes(TINY, folder, ["unet_controller"], ["vae_encoder", "head"])


@pytest.fixture(params=["small", pytest.param("tiny", marks=pytest.mark.slow)])
def packages(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def small_copy(small, tmp_path):
    folder = Path(shutil.copytree(small.folder, tmp_path / "engines"))
    return dataclasses.replace(small, folder=folder)


def random_inputs(spec, videos, frames, seed=0):
    generator = np.random.default_rng(seed)
    sizes = {"videos": videos, "frames": frames}
    return {
        t.name: np.array([1])
        if t.dtype == "int64"
        else generator.uniform(-1, 1, [sizes.get(d, d) for d in t.shape]).astype(np.float32)
        for t in spec.inputs
    }


@pytest.mark.parametrize("videos", [1, 3])
def test_packages_compute_what_torch_does(packages, videos):
    engines = packages.open()
    for name, spec in packages.specs.items():
        inputs = random_inputs(spec, videos, 2 * packages.manifest.config.frames)
        expected = TorchEngine(spec, packages.modules[name])(inputs)
        found = engines[name](inputs)
        assert list(found) == list(expected)
        for output, values in expected.items():
            assert found[output].shape == values.shape and found[output].dtype == values.dtype
            error = np.linalg.norm(found[output] - values) / np.linalg.norm(values)
            assert error <= STAGES[name].tolerances["fp32"].relative, (name, output, error)


def test_no_bit_depends_on_the_batch_the_cut_or_the_callers_threads(packages, monkeypatch):
    engines = packages.open()
    for name, spec in packages.specs.items():
        inputs = random_inputs(spec, videos=3, frames=5)
        batch = engines[name](inputs)
        bytes_of_a_frame = next(iter(inputs.values())).nbytes // 15
        for frames_a_call, threads in ((1, 2), (2, 1), (7, 3)):
            with monkeypatch.context() as patch:
                patch.setattr(inductor_backend, "_MAX_CALL_BYTES", frames_a_call * bytes_of_a_frame)
                before = torch.get_num_threads()
                torch.set_num_threads(threads)
                for output, values in engines[name](inputs).items():
                    np.testing.assert_array_equal(values, batch[output])
                assert torch.get_num_threads() == threads  # the caller keeps its own
                torch.set_num_threads(before)
        for video in range(3):
            alone = engines[name]({n: a[video : video + 1] if a.ndim else a for n, a in inputs.items()})
            for output, values in alone.items():
                np.testing.assert_array_equal(values[0], batch[output][video])


def test_only_the_named_outputs_come_back(small):
    engine = small.open()["head"]
    inputs = random_inputs(engine.spec, videos=1, frames=4)
    assert list(engine(inputs, ["frame_weights", "score"])) == ["frame_weights", "score"]


def test_inputs_may_be_read_only_and_of_any_strides(small):
    engine = small.open()["vae_encoder"]
    frames = random_inputs(engine.spec, videos=2, frames=4)["frames"]
    strided = np.repeat(frames, 2, axis=1)[:, ::2]
    strided.flags.writeable = False
    np.testing.assert_array_equal(engine({"frames": strided})["z0"], engine({"frames": frames})["z0"])


def test_other_inputs_than_the_specs_are_refused(small):
    engine = small.open()["vae_encoder"]
    with pytest.raises(ValueError, match=r"vae_encoder takes frames as float32 .*; got float64"):
        engine({"frames": np.zeros((1, 2, 3, 64, 64))})


_RUN_ALONE = """
import sys
from pathlib import Path
import numpy as np
from diffvqa_rt.engines.inductor_backend import InductorEngine
from diffvqa_rt.engines.manifest import Manifest
from diffvqa_rt.metrics.diffvqa.engines import engine_specs

folder = Path(sys.argv[1])
specs = engine_specs(Manifest.read(folder).config)
for name in sys.argv[2:]:
    spec = specs[name]
    engine = InductorEngine(spec, folder / f"{name}.pt2")
    np.savez(folder / f"{name}-out.npz", **engine(dict(np.load(folder / f"{name}-in.npz"))))
ours = [m for m in sys.modules if m.startswith(("diffvqa_kernels", "diffvqa_rt.models", "diffvqa_export"))]
assert not ours, ours
assert "torch._inductor" not in sys.modules and "numba" not in sys.modules
"""


def test_a_package_runs_without_the_networks_code(small_copy):
    folder = small_copy.folder
    small_copy.manifest.write(folder)
    inputs = {name: random_inputs(spec, videos=2, frames=4) for name, spec in small_copy.specs.items()}
    for name, arrays in inputs.items():
        np.savez(folder / f"{name}-in.npz", **arrays)
    command = [sys.executable, "-c", _RUN_ALONE, str(folder), *inputs]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    engines = small_copy.open()
    for name, arrays in inputs.items():
        found = np.load(folder / f"{name}-out.npz")
        for output, values in engines[name](arrays).items():
            np.testing.assert_array_equal(found[output], values)


def test_a_changed_byte_is_refused_before_anything_is_loaded(small_copy, monkeypatch):
    path = small_copy.folder / "vae_encoder.pt2"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr(inductor_backend, "_opened", lambda *arguments: pytest.fail("a changed file was opened"))
    with pytest.raises(EngineMismatchError, match=r"vae_encoder.pt2 was changed after it was built"):
        small_copy.open()


def test_a_file_that_is_no_package_is_refused(small_copy):
    path = small_copy.folder / "vae_encoder.pt2"
    path.write_bytes(b"not a package")
    record = dataclasses.replace(small_copy.record, files={**small_copy.record.files, path.name: sha256(path)})
    with pytest.raises(EngineMismatchError, match=r"torch .* cannot open .*vae_encoder.pt2, built by torch"):
        dataclasses.replace(small_copy, record=record).open()


def test_packages_of_other_weights_are_refused(small):
    weights = dataclasses.replace(small.manifest.weights, sha256="0" * 64)
    other = dataclasses.replace(small, manifest=dataclasses.replace(small.manifest, weights=weights))
    with pytest.raises(EngineMismatchError, match=r"built from another network or other weights than manifest.json"):
        other.open()


def with_metadata(packages, changes):
    """The same packages, said to have been compiled elsewhere."""
    path = packages.folder / "vae_encoder.pt2"
    with zipfile.ZipFile(path) as package:
        entries = {entry: package.read(entry) for entry in package.namelist()}
    # Stored and in their order, as torch writes them.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as package:
        for entry, content in entries.items():
            if entry.endswith("_metadata.json"):
                content = json.dumps({**json.loads(content), **changes}).encode()
            package.writestr(entry, content)
    record = dataclasses.replace(packages.record, files={**packages.record.files, path.name: sha256(path)})
    return dataclasses.replace(packages, record=record)


REBUILD = r"; build it here with export/build_engines.py --backend aot-inductor"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"diffvqa_torch": "2.1.0"},
            rf"was compiled for torch 2\.1\.0, and this is {torch.__version__[:4]}.*{REBUILD}",
        ),
        ({"diffvqa_machine": "vax"}, rf"was compiled for a processor of kind vax, and this is .*{REBUILD}"),
        (
            {"diffvqa_cpu_features": "avx2 avx9000"},
            rf"was compiled for a processor with avx9000, which this one lacks{REBUILD}",
        ),
    ],
)
def test_packages_for_another_machine_are_refused(small_copy, changes, message):
    with pytest.raises(EngineMismatchError, match=message):
        with_metadata(small_copy, changes).open()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_packages_for_a_gpu_are_refused_where_there_is_none(small_copy):
    with pytest.raises(EngineMismatchError, match=r"was compiled for a GPU and torch sees none here"):
        with_metadata(small_copy, {"diffvqa_device": "cuda"}).open()


def test_nothing_stays_behind(small, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    small.open()
    assert list(tmp_path.iterdir()) == []


def test_a_build_without_a_compiler_says_what_to_install(tmp_path):
    done = build_elsewhere(SMALL, tmp_path, "vae_encoder", PATH=str(tmp_path))
    assert done.returncode != 0
    message = "vae_encoder: AOTInductor needs a C++ compiler and found none; install g++, or name one in CXX"
    assert done.stderr.rstrip().endswith(f"EngineBuildError: {message}"), done.stderr


def test_a_border_that_is_not_the_specs_is_refused(tmp_path):
    class NoLatents(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, frames):
            return (frames.mean((2, 3, 4)) * self.scale,)

    job = job_of("vae_encoder", NoLatents().eval(), tmp_path / "vae_encoder.pt2", config=SMALL)
    with pytest.raises(EngineBuildError, match=r"vae_encoder: the exported outputs are .*; the spec says"):
        package_from_module(job)


@pytest.mark.slow
def test_a_module_in_half_precision_keeps_its_float32_borders(tmp_path):
    module, spec = stage_modules(random_network(SMALL))["vae_encoder"], engine_specs(SMALL)["vae_encoder"]
    inputs = random_inputs(spec, videos=2, frames=3)
    expected = TorchEngine(spec, module)(inputs)["z0"]
    write_precision(STAGES["vae_encoder"], module, "bf16")
    package_from_module(job_of("vae_encoder", module, tmp_path / "vae_encoder.pt2", config=SMALL))
    found = inductor_backend.InductorEngine(spec, tmp_path / "vae_encoder.pt2")(inputs)["z0"]
    assert found.dtype == np.float32
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert 1e-5 < error <= STAGES["vae_encoder"].tolerances["bf16"].relative


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_packages_on_a_gpu(tmp_path):
    packages = build(SMALL, tmp_path, device="cuda")
    engines = packages.open()
    reference = stage_modules(random_network(SMALL))
    for videos in (1, 3):
        for name, spec in packages.specs.items():
            inputs = random_inputs(spec, videos, 2 * SMALL.frames)
            expected = TorchEngine(spec, reference[name])(inputs)
            found = engines[name](inputs)
            for output, values in expected.items():
                error = np.linalg.norm(np.asarray(found[output]) - values) / np.linalg.norm(values)
                assert error <= 1e-2, (name, output, error)  # convolutions may run in TF32
    step, loop = engines["unet_controller"], METRIC.chain(SMALL)[1]
    for seed in range(3):  # the same graph with other latents
        tensors = {"z0": random_inputs(step.spec, 2, 2 * SMALL.frames, seed)["z0"]}
        expected = run_loop(loop, step, tensors)
        found = step.loop(loop, tensors)
        assert all(isinstance(array, TensorArray) for array in found.values())
        for output, values in expected.items():
            np.testing.assert_array_equal(np.asarray(found[output]), np.asarray(values))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_build_command_compiles_proves_and_opens(tmp_path, clip):
    out = tmp_path / "tiny"
    assert build_engines.main(["--backend", "aot-inductor", "--precision", "bf16", "--out", str(out)]) == 0
    record = Manifest.read(out).backends["aot-inductor"]
    assert (record.device, record.precision, record.scan) == ("cpu", "bf16", "a C++ kernel")
    assert record.parity is not None and 1e-3 < record.parity.outputs[0].relative_error < 6e-2
    assert Scorer.open(out, backend="aot-inductor").score(clip).backend == "aot-inductor"
