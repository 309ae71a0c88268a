"""An engine folder is verified before it runs, and runs the same however it is cut."""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_network import SMALLEST

from diffvqa_rt.chain import play
from diffvqa_rt.engines import Manifest, available_cpus, open_engines
from diffvqa_rt.engines.cpus import quota_cpus
from diffvqa_rt.engines.manifest import PROVENANCE_KEY
from diffvqa_rt.engines.onnx_backend import OnnxCudaEngine, OnnxDeviceArray
from diffvqa_rt.engines.verification import external_data_files, onnx_metadata
from diffvqa_rt.errors import EngineMismatchError
from diffvqa_rt.extras import install_command
from diffvqa_rt.metrics.diffvqa.config import DiffVQAConfig
from diffvqa_rt.metrics.diffvqa.engines import FEATURES, engine_specs
from diffvqa_rt.metrics.diffvqa.metric import METRIC
from diffvqa_rt.metrics.diffvqa.presets import TINY


def flip_a_byte(folder: Path) -> None:
    file = folder / "onnx" / "head.onnx"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def change_a_weight(folder: Path) -> None:
    file = folder / "onnx" / "unet_controller.onnx.data"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def link_the_weights_from_elsewhere(folder: Path) -> None:
    elsewhere = folder.parent / "weights"
    (folder / "onnx" / "head.onnx.data").rename(elsewhere)
    (folder / "onnx" / "head.onnx.data").symlink_to(elsewhere)


def add_an_unlisted_model(folder: Path) -> None:
    (folder / "onnx" / "extra.onnx").write_bytes(b"anything")


def remove_an_engine(folder: Path) -> None:
    (folder / "onnx" / "head.onnx").unlink()


def link_an_engine_from_elsewhere(folder: Path) -> None:
    elsewhere = folder.parent / "head.onnx"
    (folder / "onnx" / "head.onnx").rename(elsewhere)
    (folder / "onnx" / "head.onnx").symlink_to(elsewhere)


def edit_manifest(change):
    def damage(folder: Path) -> None:
        path = folder / "manifest.json"
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))

    return damage


def list_a_file_outside(values) -> None:
    record = values["backends"]["onnx"]
    record["files"]["../head.onnx"] = record["files"]["onnx/head.onnx"]
    record["engines"]["head"]["file"] = "../head.onnx"


DAMAGES = {
    "changed_byte": (flip_a_byte, "head.onnx was changed after it was built: its SHA-256 is"),
    "unlisted_model": (add_an_unlisted_model, "extra.onnx is not listed in manifest.json; remove it"),
    "missing_engine": (remove_an_engine, "head.onnx, listed in manifest.json, cannot be read"),
    "changed_weight": (change_a_weight, "unet_controller.onnx.data was changed after it was built: its SHA-256 is"),
    "missing_weights": (
        lambda folder: (folder / "onnx" / "head.onnx.data").unlink(),
        "head.onnx.data, listed in manifest.json, cannot be read",
    ),
    "linked_weights": (link_the_weights_from_elsewhere, "head.onnx.data is a link or lies outside its engine folder"),
    "link": (link_an_engine_from_elsewhere, "head.onnx is a link or lies outside its engine folder"),
    "outside": (edit_manifest(list_a_file_outside), "head.onnx is a link or lies outside its engine folder"),
    "no_manifest": (lambda folder: (folder / "manifest.json").unlink(), "is not an engine folder: it has no manifest"),
    "no_json": (
        lambda folder: (folder / "manifest.json").write_text("{"),
        "cannot be read .*; build the engines again",
    ),
    "other_format": (edit_manifest(lambda v: v.update(format=99)), "has format 99, this version reads 2"),
    "damaged": (edit_manifest(lambda v: v["config"].pop("vae")), "is damaged .*; build the engines again"),
    "other_steps": (
        edit_manifest(lambda v: v["config"]["sampler"].update(steps=5)),
        "vae_encoder.onnx was built from another network or other weights than manifest.json says",
    ),
    "other_weights": (edit_manifest(lambda v: v["weights"].update(is_trained=False)), "from another network or other"),
    "other_border": (
        edit_manifest(lambda v: v["config"].update(view_size=128)),
        "vae_encoder for onnx was built with other inputs or outputs than this version's",
    ),
    "unlisted_engine": (
        edit_manifest(lambda v: v["backends"]["onnx"]["engines"].pop("head")),
        "the manifest lists no head for onnx",
    ),
}


@pytest.mark.parametrize(("damage", "sentence"), DAMAGES.values(), ids=DAMAGES)
def test_a_folder_that_is_not_what_was_built_is_refused(engines_copy, damage, sentence):
    open_engines(engines_copy)
    damage(engines_copy)
    with pytest.raises(EngineMismatchError, match=sentence):
        open_engines(engines_copy)


def replace_model(folder: Path, content: bytes) -> None:
    """Another head, which the manifest vouches for."""
    (folder / "onnx" / "head.onnx").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    edit_manifest(lambda v: v["backends"]["onnx"]["files"].update({"onnx/head.onnx": digest}))(folder)


def test_a_file_that_is_listed_but_no_model_is_refused(engines_copy):
    replace_model(engines_copy, b"not onnx")
    with pytest.raises(EngineMismatchError, match=r"head.onnx is not a serialised ONNX model; build the engines again"):
        open_engines(engines_copy)
    replace_model(engines_copy, onnx.ModelProto(ir_version=10).SerializeToString())
    with pytest.raises(EngineMismatchError, match=r"onnxruntime .* cannot open .*head.onnx, built by onnxruntime"):
        open_engines(engines_copy)


@pytest.mark.parametrize("location", ["../head.onnx.data", "/etc/passwd", "sub/head.onnx.data", "unlisted.bin", ""])
def test_weights_that_lie_elsewhere_never_reach_the_runtime(engines_copy, monkeypatch, location):
    model = onnx.load(engines_copy / "onnx" / "head.onnx", load_external_data=False)
    outside = next(tensor for tensor in model.graph.initializer if tensor.external_data)
    (entry,) = [e for e in outside.external_data if e.key == "location"]
    entry.value = location
    replace_model(engines_copy, model.SerializeToString())
    shutil.copy(engines_copy / "onnx" / "head.onnx.data", engines_copy / "head.onnx.data")
    (engines_copy / "head.onnx.data").rename(engines_copy / "onnx" / "unlisted.bin")
    opened = []
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda model, *a, **k: opened.append(model) or real(model, *a, **k)
    )
    with pytest.raises(EngineMismatchError, match="head.onnx keeps weights in .*, which manifest.json does not list"):
        open_engines(engines_copy)
    assert (engines_copy / "onnx" / "head.onnx").read_bytes() not in opened


def test_every_file_that_an_onnx_model_points_to_is_found():
    """Initialisers, constants, subgraphs, functions, sparse tensors: the ONNX library's own model of the format."""

    def stored(location: str) -> onnx.TensorProto:
        tensor = onnx.TensorProto(name="t", data_type=onnx.TensorProto.FLOAT, dims=[1])
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="offset", value="0")
        tensor.external_data.add(key="location", value=location)
        return tensor

    def graph(*names: str, nodes: tuple = ()) -> onnx.GraphProto:
        return onnx.helper.make_graph(list(nodes), "g", [], [], initializer=[stored(name) for name in names])

    constant = onnx.helper.make_node("Constant", [], ["c"], value=stored("constant"))
    branch = onnx.helper.make_node("If", ["c"], ["d"], then_branch=graph("then"), else_branch=graph("else"))
    sparse = onnx.SparseTensorProto(values=stored("values"), indices=stored("indices"))
    model = onnx.helper.make_model(graph("a", "b", nodes=(constant, branch)))
    model.graph.sparse_initializer.append(sparse)
    model.functions.add(name="f", domain="d").node.append(
        onnx.helper.make_node("Constant", [], ["c"], sparse_value=sparse, value=stored("function"))
    )
    model.functions[0].attribute_proto.append(onnx.helper.make_attribute("default", stored("default")))
    model.training_info.add().algorithm.CopyFrom(graph("training"))
    expected = {"a", "b", "constant", "then", "else", "values", "indices", "function", "default", "training"}
    assert external_data_files(model.SerializeToString()) == expected


def test_what_protobuf_would_read_otherwise_is_refused():
    entry = onnx.StringStringEntryProto(key="location", value="secret.bin").SerializeToString()
    # TensorProto.external_data, its tag with a bit that protobuf's parsers cut off.
    tag = (13 << 3 | 2) + (1 << 32)
    wide = bytes([*(tag >> shift & 0x7F | 0x80 for shift in (0, 7, 14, 21)), tag >> 28])
    tensor = wide + bytes([len(entry)]) + entry
    graph = bytes([5 << 3 | 2, len(tensor)]) + tensor
    with pytest.raises(ValueError, match="not a serialised ONNX model"):
        external_data_files(bytes([7 << 3 | 2, len(graph)]) + graph)


def test_a_model_nested_without_end_is_refused():
    graph = onnx.GraphProto()
    for _ in range(400):
        outer = onnx.GraphProto()
        outer.node.add(op_type="If").attribute.add(name="then_branch").g.CopyFrom(graph)
        graph = outer
    model = graph.SerializeToString()
    length = bytes([len(model) & 0x7F | 0x80, len(model) >> 7 & 0x7F | 0x80, len(model) >> 14])
    with pytest.raises(ValueError, match="not a serialised ONNX model"):
        external_data_files(bytes([7 << 3 | 2]) + length + model)


def test_metadata_is_read_as_it_was_written(small_engines):
    metadata = onnx_metadata((small_engines / "onnx" / "head.onnx").read_bytes())
    assert metadata == {PROVENANCE_KEY: Manifest.read(small_engines).provenance}


def test_io_binding_hands_arrays_from_engine_to_engine(small_engines):
    """The GPU's way of running ONNX engines, on the CPU: sessions whose outputs stay where the session is."""
    specs = engine_specs(SMALLEST)
    engines = {
        name: OnnxCudaEngine(specs[name], session, device="cpu")
        for name, session in {n: e._session for n, e in open_engines(small_engines)[1].items()}.items()
    }
    expected = open_engines(small_engines)[1]
    frames = random_inputs("vae_encoder", videos=2, frames=4, config=SMALLEST)["frames"]
    z0 = engines["vae_encoder"]({"frames": frames})["z0"]
    assert isinstance(z0, OnnxDeviceArray) and z0.shape == (2, 4, *SMALLEST.latent_shape)
    chain = METRIC.chain(SMALLEST)
    ours, theirs = play(chain, engines, {"frames": frames}), play(chain, expected, {"frames": frames})
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    step = engines["unet_controller"]({"z": z0, "z0": np.asarray(z0), "step": np.array([1])}, ["z_next"])
    assert list(step) == ["z_next"]


@given(st.binary(max_size=200))
def test_bytes_that_are_no_model_are_a_value_error(content):
    with contextlib.suppress(ValueError):
        external_data_files(content)


def test_a_backend_that_was_not_built_is_named(engines_copy):
    edit_manifest(lambda v: v["backends"].pop("torch"))(engines_copy)
    (engines_copy / "torch" / "weights.safetensors").unlink()
    with pytest.raises(
        EngineMismatchError, match="has no torch engines, only onnx.*; build them with .* --backend onnx.*,torch"
    ):
        open_engines(engines_copy, "torch")
    with pytest.raises(ValueError, match="backend is 'tpu'; expected one of onnx, onnx-cuda, .*torch"):
        open_engines(engines_copy, "tpu")


def test_torch_weights_of_another_network_are_refused(engines_copy):
    edit_manifest(lambda v: v["config"]["head"].update(mlp_width=16))(engines_copy)
    with pytest.raises(EngineMismatchError, match="weights.safetensors does not fit the network of manifest.json"):
        open_engines(engines_copy, "torch")


def test_a_missing_runtime_names_its_extra(small_engines, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffvqa_rt.engines.onnx_backend", None)
    with pytest.raises(EngineMismatchError, match=f"which is not installed: {re.escape(install_command('cpu'))}$"):
        open_engines(small_engines)


def test_threads_are_counted_from_one(small_engines):
    with pytest.raises(ValueError, match="threads is -3; expected at least 1"):
        open_engines(small_engines, threads=-3)


def test_the_manifest_survives_reading_and_writing(small_engines, tmp_path):
    manifest = Manifest.read(small_engines)
    manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == manifest


def random_inputs(name: str, videos: int, frames: int, config: DiffVQAConfig = TINY) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    sizes = {"videos": videos, "frames": frames}
    return {
        tensor.name: np.array([1])
        if tensor.dtype == "int64"
        else rng.standard_normal([sizes.get(d, d) for d in tensor.shape]).astype(np.float32)
        for tensor in engine_specs(config)[name].inputs
    }


@pytest.mark.parametrize("name", ["vae_encoder", "unet_controller"])
def test_no_bit_depends_on_threads_or_on_the_other_frames_and_videos(built_engines, name):
    inputs = random_inputs(name, videos=2, frames=5)
    whole = open_engines(built_engines, threads=1, names=[name])[1][name](inputs)
    for threads in (2, 3, 17):
        cut = open_engines(built_engines, threads=threads, names=[name])[1][name](inputs)
        assert all(np.array_equal(cut[output], whole[output]) for output in whole), f"{threads} threads"
    engine = open_engines(built_engines, names=[name])[1][name]
    one_frame = {k: v[1:, 3:4] if v.ndim > 1 else v for k, v in inputs.items()}
    alone = engine(one_frame)
    assert all(np.array_equal(alone[output], whole[output][1:, 3:4]) for output in whole)


def test_a_still_has_the_same_bits_as_frames_that_all_run(built_engines, manifest):
    class AllFrames:
        """Of which nobody knows that its frames do not see each other."""

        max_videos = None

        def __init__(self, engine):
            self.spec, self._engine = engine.spec, engine

        def __call__(self, inputs, outputs=None):
            return self._engine(inputs, outputs)

    _, engines = open_engines(built_engines, names=["vae_encoder", "unet_controller"])
    (encode, denoise, _) = manifest.metric.chains(manifest.config)["diffvqa"]
    chain = (encode, dataclasses.replace(denoise, count=2, keep={name: (name, 1) for name in FEATURES}))
    views = np.tile(np.random.default_rng(0).integers(0, 256, (1, 2, 3, 192, 192), np.uint8), (1, 3, 1, 1, 1))
    shared = play(chain, engines, {"frames": views})
    expected = play(chain, {name: AllFrames(engine) for name, engine in engines.items()}, {"frames": views})
    assert all(np.array_equal(shared[name], expected[name]) for name in FEATURES)


def test_no_bit_of_the_head_depends_on_the_other_videos(built_engines):
    engine = open_engines(built_engines, names=["head"])[1]["head"]
    inputs = random_inputs("head", videos=3, frames=16)
    together = engine(inputs)
    one_thread = open_engines(built_engines, threads=1, names=["head"])[1]["head"](inputs)
    assert all(np.array_equal(one_thread[output], together[output]) for output in together)
    for row in range(3):
        alone = engine({name: values[row : row + 1] for name, values in inputs.items()})
        assert all(np.array_equal(alone[output][0], together[output][row]) for output in together)


def test_an_engine_gives_the_outputs_it_is_asked_for(small_engines):
    inputs = random_inputs("unet_controller", videos=1, frames=2, config=SMALLEST)
    for backend in ("onnx", "torch"):
        engine = open_engines(small_engines, backend)[1]["unet_controller"]
        assert list(engine(inputs, ["z_next"])) == ["z_next"]
        assert list(engine(inputs)) == ["z_next", "features_0", "features_1", "features_2", "features_3"]
        with pytest.raises(ValueError, match="unet_controller takes z, z0, step"):
            engine({"z": inputs["z"]})


@pytest.mark.parametrize("backend", ["onnx", "torch"])
def test_a_process_that_plays_one_engine_opens_and_verifies_that_one_alone(engines_copy, backend):
    for name in ("vae_encoder", "head"):
        spoil = engines_copy / "onnx" / f"{name}.onnx"
        spoil.write_bytes(spoil.read_bytes() + b"\0")
    manifest, engines = open_engines(engines_copy, backend, names=["unet_controller"])
    assert list(engines) == ["unet_controller"] and engines["unet_controller"].spec.name == "unet_controller"
    assert "head" in manifest.backends[backend].engines
    if backend == "onnx":
        with pytest.raises(EngineMismatchError, match="head.onnx was changed"):
            open_engines(engines_copy, backend, names=["head"])
    with pytest.raises(ValueError, match="names has tail; expected some of vae_encoder"):
        open_engines(engines_copy, backend, names=["tail"])


@pytest.mark.parametrize(
    ("membership", "files", "cpus"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
        ("0::/pod/box\n", {"pod/cpu.max": "100000 100000\n", "pod/box/cpu.max": "max 100000\n"}, 1.0),
        ("0::/outside/of/the/container\n", {"cpu.max": "50000 100000\n"}, 0.5),
        (
            "4:memory:/box\n3:cpu,cpuacct:/box\n",
            {"cpu,cpuacct/box/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/box/cpu.cfs_period_us": "100000\n"},
            2.5,
        ),
        ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
        ("0::/\n", {}, math.inf),
    ],
)
def test_quotas_of_control_groups_count(tmp_path, monkeypatch, membership, files, cpus):
    (tmp_path / "membership").write_text(membership)
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text)
    assert quota_cpus(tmp_path / "groups", tmp_path / "membership") == cpus
    assert quota_cpus(tmp_path / "groups", tmp_path / "nothing") == math.inf
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(8))
    monkeypatch.setattr("diffvqa_rt.engines.cpus.quota_cpus", lambda: cpus)
    assert available_cpus() == min(8, math.ceil(cpus) if math.isfinite(cpus) else 8)
