"""`export/build_engines.py`: what it writes, what it proves, and what it refuses."""

import dataclasses
import json
import shutil
import sys

import build_engines
import numpy as np
import onnx
import pytest
import torch
from diffvqa_export import build
from diffvqa_export.onnx_export import export_onnx
from diffvqa_export.parity import measure_parity
from diffvqa_export.weights import choose_weights

from diffvqa_rt.config import DiffVQAConfig
from diffvqa_rt.engines import Manifest, open_engines
from diffvqa_rt.engines.torch_backend import torch_engines
from diffvqa_rt.errors import EngineBuildError, ParityError
from diffvqa_rt.models.checkpoints import save_weights
from diffvqa_rt.models.diffvqa import random_network
from diffvqa_rt.presets import SD21, TINY
from diffvqa_rt.specs import engine_specs
from diffvqa_rt.video import make_views, sample_frames

STANDARD_DOMAINS = {"", "ai.onnx"}


def nodes_of(graph):
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from nodes_of(attribute.g)


@pytest.mark.parametrize("name", engine_specs(TINY))
def test_a_graph_has_standard_operators_only(built_engines, name):
    model = onnx.load(built_engines / "onnx" / f"{name}.onnx")
    local = {(function.domain, function.name) for function in model.functions}
    called = {(node.domain, node.op_type) for graph in (model.graph, *model.functions) for node in nodes_of(graph)}
    assert {domain for domain, operator in called - local} <= STANDARD_DOMAINS
    # The scan is where a stand-in would hide: the head calls ours, and its body is a standard Scan.
    assert (("diffvqa", "BidirectionalSelectiveScan") in called) == (name == "head")
    assert (("", "Scan") in called) == (name == "head")


def test_the_manifest_says_where_the_engines_come_from_and_how_good_they_are(built_engines):
    manifest = Manifest.read(built_engines)
    assert manifest.config == TINY
    assert not manifest.weights.is_trained
    assert manifest.weights.source == "random, seed 0"
    assert manifest.build.versions["torch"] == torch.__version__
    parity = manifest.backends["onnx"].parity
    assert parity is not None
    measured = {(o.engine, o.output) for o in parity.outputs}
    assert measured == {(s.name, o.name) for s in engine_specs(TINY).values() for o in s.outputs}
    assert all(0 <= o.relative_error <= o.tolerance for o in parity.outputs)
    assert sum(o.relative_error for o in parity.outputs) > 0  # two runtimes never agree on every bit
    assert parity.score_difference < 1e-3 * 100


def test_timesteps_noise_and_text_are_inside_the_step(built_engines):
    """The exact folds: no sine, no text projection, no time embedding is left to compute."""
    model = onnx.load(built_engines / "onnx" / "unet_controller.onnx")
    assert [i.name for i in model.graph.input] == ["z", "z0", "step"]
    assert not {"Sin", "Cos"} & {node.op_type for node in model.graph.node}
    stored = {tensor.raw_data for tensor in model.graph.initializer}
    extractor = random_network(TINY).extractor
    matrices = {name: p for name, p in extractor.named_parameters() if p.ndim == 2 and not name.startswith("vae")}
    kept = {n for n, p in matrices.items() if {m.detach().numpy().tobytes() for m in (p, p.T)} & stored}
    folded = {n for n in matrices if ".time_emb" in n or ".attn2." in n}
    assert not folded & kept
    assert {n for n in matrices if ".proj_in." in n or ".attn1." in n} <= kept  # what is not folded is found this way


def test_another_networks_engines_fail_parity_and_nothing_is_written(built_engines, clip, tmp_path, monkeypatch):
    def copy_instead_of_exporting(stage, module, config, spec, path, provenance):
        shutil.copy(built_engines / "onnx" / path.name, path)

    monkeypatch.setattr(build, "export_onnx", copy_instead_of_exporting)
    monkeypatch.setattr(Manifest, "provenance", Manifest.read(built_engines).provenance)
    request = build.BuildRequest(
        backends=("onnx",), out=tmp_path / "out", clip=clip, is_trained=False, source="random, seed 1"
    )
    with pytest.raises(ParityError, match="vae_encoder's z0 is off by .* Nothing was written"):
        build.build_engines(random_network(TINY, seed=1), request, progress=lambda step: None)
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_not_a_number_passes_no_tolerance(built_engines, clip):
    class Broken:
        def __init__(self, engine):
            self.spec, self._engine = engine.spec, engine

        def __call__(self, inputs, outputs=None):
            results = self._engine(inputs, outputs)
            return {name: np.full_like(values, np.nan) for name, values in results.items()}

    _, engines = open_engines(built_engines, "onnx")
    reference = torch_engines(random_network(TINY))
    views = make_views(sample_frames(clip, TINY.frames).frames, TINY.view_size)
    broken = {**engines, "head": Broken(engines["head"])}
    report = measure_parity(broken, reference, TINY, build.STAGES, views, clip.name)
    assert any("head's score is off by inf" in failure for failure in report.failures)
    assert any(failure.startswith("the score is nan") for failure in report.failures)


def test_a_border_that_is_not_the_specs_is_refused(tmp_path):
    class FixedFrames(torch.nn.Module):
        def forward(self, frames):
            return (frames.mean((2, 3, 4)),)

    spec = engine_specs(TINY)["vae_encoder"]
    with pytest.raises(EngineBuildError, match="exported outputs are .*; the spec says"):
        export_onnx(build.STAGES["vae_encoder"], FixedFrames(), TINY, spec, tmp_path / "vae_encoder.onnx", "")


def test_a_folder_that_is_no_engine_folder_is_not_overwritten(tmp_path, clip):
    (tmp_path / "holiday.jpg").write_bytes(b"irreplaceable")
    request = build.BuildRequest(backends=("torch",), out=tmp_path, clip=clip, is_trained=False, source="")
    with pytest.raises(EngineBuildError, match="is not an engine folder; choose another --out"):
        build.build_engines(random_network(TINY), request, progress=lambda step: None)
    assert (tmp_path / "holiday.jpg").read_bytes() == b"irreplaceable"


def test_an_engine_folder_with_something_else_in_it_is_not_overwritten(engines_copy, clip):
    (engines_copy / "notes.txt").write_text("irreplaceable")
    request = build.BuildRequest(backends=("torch",), out=engines_copy, clip=clip, is_trained=False, source="")
    with pytest.raises(EngineBuildError, match="notes.txt is not part of the engines"):
        build.build_engines(random_network(TINY), request, progress=lambda step: None)
    (engines_copy / "notes.txt").unlink()
    (engines_copy / "manifest.json").write_text('{"name": "a web app"}')
    with pytest.raises(EngineBuildError, match="is not an engine folder"):
        build.build_engines(random_network(TINY), request, progress=lambda step: None)
    assert (engines_copy / "onnx" / "head.onnx").exists()


def test_engines_of_an_older_format_are_replaced(engines_copy, clip):
    values = json.loads((engines_copy / "manifest.json").read_text())
    (engines_copy / "manifest.json").write_text(json.dumps({"format": 0, "backends": values["backends"]}))
    request = build.BuildRequest(backends=("torch",), out=engines_copy, clip=clip, is_trained=False, source="")
    build.build_engines(random_network(TINY), request, progress=lambda step: None)
    assert list(Manifest.read(engines_copy).backends) == ["torch"]
    assert [path.name for path in engines_copy.parent.iterdir()] == [engines_copy.name]  # nothing left beside it


def test_a_network_too_large_for_one_file_is_refused_before_the_export(tmp_path, clip, monkeypatch):
    monkeypatch.setattr(build, "MAX_ONNX_BYTES", 1_000_000)
    request = build.BuildRequest(backends=("onnx",), out=tmp_path / "out", clip=clip, is_trained=False, source="")
    with pytest.raises(EngineBuildError, match="of weights, and an ONNX file of ours holds at most .* --backend torch"):
        build.build_engines(random_network(TINY), request, progress=lambda step: None)


def test_what_the_exporter_cannot_do_is_a_sentence(tmp_path):
    class Unexportable(torch.nn.Module):
        def forward(self, frames):
            return (frames if frames.sum() > 0 else -frames,)  # which way depends on the data

    spec = engine_specs(TINY)["vae_encoder"]
    with pytest.raises(EngineBuildError, match="vae_encoder could not be exported to ONNX"):
        export_onnx(build.STAGES["vae_encoder"], Unexportable(), TINY, spec, tmp_path / "vae_encoder.onnx", "")


def test_trained_weights_are_built_and_an_older_folder_is_replaced(tmp_path, capsys):
    save_weights(random_network(TINY, seed=5), tmp_path / "weights.safetensors", is_trained=True)
    arguments = [
        "--weights",
        str(tmp_path / "weights.safetensors"),
        "--backend",
        "torch",
        "--out",
        str(tmp_path / "out"),
    ]
    for _ in range(2):
        assert build_engines.main(arguments) == 0
    assert "untrained" not in capsys.readouterr().out
    manifest, engines = open_engines(tmp_path / "out", "torch")
    assert manifest.weights.is_trained and manifest.weights.source == "weights.safetensors"
    frames = np.zeros((1, 2, 3, TINY.view_size, TINY.view_size), np.float32)
    expected = torch_engines(random_network(TINY, seed=5))["vae_encoder"]({"frames": frames})["z0"]
    assert np.array_equal(engines["vae_encoder"]({"frames": frames})["z0"], expected)


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["--preset", "huge"], 2, "preset is 'huge'; expected one of tiny, sd21"),
        (["--weights", "nowhere.safetensors"], 2, "nowhere.safetensors: no such weights file"),
        (["--backend", "onnx,vulkan"], 2, "expected some of onnx, torch"),
        (["--clip", "nowhere.mp4"], 1, "nowhere.mp4 cannot be read"),
    ],
)
def test_a_users_mistake_gets_one_sentence(arguments, status, sentence, capsys):
    assert build_engines.main(arguments) == status
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


def test_a_missing_package_names_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "diffvqa_export.build", None)
    assert build_engines.main([]) == 1
    assert "is not installed: pip install 'diffvqa-rt[export]'" in capsys.readouterr().err


def test_weights_of_another_network_are_refused(tmp_path):
    other = dataclasses.replace(TINY, name="other", frames=2, view_size=64)
    save_weights(random_network(other), tmp_path / "w.safetensors", is_trained=True)
    with pytest.raises(ValueError, match="holds the network 'other', which is not the preset 'tiny'"):
        choose_weights(TINY, tmp_path / "w.safetensors")


def test_a_manifest_names_every_field_of_its_network(built_engines):
    values = json.loads((built_engines / "manifest.json").read_text())
    assert DiffVQAConfig.from_dict(values["config"]) == TINY != SD21
