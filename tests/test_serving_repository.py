"""The served models' configs against `specs`, and the ensemble's wiring, as Triton server reads them."""

import json
from pathlib import Path

import pytest

from diffvqa_rt.config import VIEWS
from diffvqa_rt.errors import EngineMismatchError
from diffvqa_rt.presets import TINY
from diffvqa_rt.serving.repository import assemble_repository
from diffvqa_rt.serving.settings import RequestLimits, ServerConfig, ServerTls, StageSettings, manifest_sha256
from diffvqa_rt.specs import engine_specs, served_specs

SPECS = served_specs(TINY)
NUMPY_NAMES = {"FP32": "float32", "FP64": "float64", "INT64": "int64", "INT32": "int32", "UINT8": "uint8"}


def settings_for(folder: Path, **changes) -> StageSettings:
    values = {
        "engines": str(folder),
        "manifest_sha256": manifest_sha256(folder),
        "backend": "onnx",
        "threads": None,
        "python": "/some where/“python”",
        "traffic": "/tmp/traffic",
        "limits": RequestLimits(),
    }
    return StageSettings(**(values | changes))


@pytest.fixture(scope="module")
def repository(built_engines, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("repository") / "models"
    assemble_repository(settings_for(built_engines), folder)
    return folder


@pytest.fixture(scope="module")
def configs(repository):
    """Each served model's config, parsed by the definition that Triton server has of it."""
    model_config = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="tritonclient is not installed")
    from google.protobuf import text_format

    parsed = {}
    for path in repository.glob("*/config.pbtxt"):
        parsed[path.parent.name] = text_format.Parse(path.read_text(), model_config.ModelConfig())
    return parsed


def borders(tensors) -> dict[str, tuple[str, tuple[int, ...]]]:
    from tritonclient.grpc.model_config_pb2 import DataType

    return {
        tensor.name: (NUMPY_NAMES[DataType.Name(tensor.data_type).removeprefix("TYPE_")], tuple(tensor.dims))
        for tensor in tensors
    }


def expected_borders(specs) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {s.name: (s.dtype, tuple(-1 if isinstance(size, str) else size for size in s.shape)) for s in specs}


def test_there_is_a_model_for_every_stage_and_one_for_all(configs, repository):
    stages = {"preprocess", "vae_encoder", "denoise", "unet_controller", "head"}
    assert set(configs) == set(SPECS) == {*stages, "diffvqa"}
    for name, config in configs.items():
        assert config.name == name
        assert config.platform == "ensemble" if name == "diffvqa" else config.backend == "python"
        assert (repository / name / "1" / "model.py").exists() == (name != "diffvqa")


@pytest.mark.parametrize("name", SPECS)
def test_a_config_has_the_names_types_and_dims_of_its_spec(configs, name):
    config, spec = configs[name], SPECS[name]
    assert borders(config.input) == expected_borders(spec.inputs)
    assert borders(config.output) == expected_borders(spec.outputs)
    assert {tensor.name for tensor in config.input if tensor.optional} == spec.optional
    assert config.max_batch_size == 0


@pytest.mark.parametrize("name", engine_specs(TINY))
def test_a_served_engine_has_the_border_of_its_engine(name):
    engine, served = engine_specs(TINY)[name], SPECS[name]
    for built, shown in [(engine.inputs, served.inputs), (engine.outputs, served.outputs[:-1])]:
        assert [(s.name, s.dtype) for s in built] == [(s.name, s.dtype) for s in shown]
        for one, other in zip(built, shown, strict=True):
            counted = [len(VIEWS) * TINY.frames if size == "frames" else size for size in one.shape]
            assert tuple(counted) == (other.shape if one.shape else ())


def test_the_ensemble_joins_equal_tensors_and_gives_out_all_that_a_result_needs(configs):
    known = borders(configs["diffvqa"].input)
    for step in configs["diffvqa"].ensemble_scheduling.step:
        model = configs[step.model_name]
        inputs, outputs = borders(model.input), borders(model.output)
        assert set(step.input_map) == set(inputs)
        for name, tensor in step.input_map.items():
            assert known[tensor] == inputs[name], (step.model_name, name)
        for name, tensor in step.output_map.items():
            assert tensor not in known
            known[tensor] = outputs[name]
    given_out = borders(configs["diffvqa"].output)
    assert given_out.items() <= known.items()
    assert {"score", "frame_scores", "frame_weights", "timestamps_seconds", "video_info", "model"} < set(given_out)


def test_settings_cross_over_unchanged(configs, built_engines):
    for name in SPECS:
        if name != "diffvqa":
            text = configs[name].parameters["settings"].string_value
            assert StageSettings.from_json(text) == settings_for(built_engines)
    with pytest.raises(TypeError, match="surprise"):
        StageSettings.from_json(json.dumps({**json.loads(text), "surprise": 1}))


def test_models_refuse_a_folder_that_was_built_again_since(engines_copy):
    settings = settings_for(engines_copy)
    settings.manifest()
    (engines_copy / "manifest.json").write_text((engines_copy / "manifest.json").read_text() + "\n")
    with pytest.raises(EngineMismatchError, match="changed since the server started"):
        settings.manifest()


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda path: RequestLimits(max_frames=0), "max_frames is 0"),
        (lambda path: RequestLimits(max_decode_seconds=-1), "max_decode_seconds is -1"),
        (lambda path: ServerConfig(engines=path, port=8000), "three different ones"),
        (lambda path: ServerConfig(engines=path, port=70000), "below 65536"),
        (lambda path: ServerTls(cert=path / "no.pem", key=path / "no.key"), "no.pem; expected a file in PEM format"),
        (lambda path: ServerTls(cert=None, key=path / "no.key"), "certificate is None"),
    ],
)
def test_bad_settings_are_refused(make, complaint, tmp_path):
    with pytest.raises(ValueError, match=complaint):
        make(tmp_path)
