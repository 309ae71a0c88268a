"""The served models' configs against `specs`, and the ensemble's wiring, as Triton server reads them."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from served import assert_border, assert_joined, in_protobuf, parsed, settings_for

from diffvqa_rt.engines.manifest import MAX_VIDEOS, Manifest
from diffvqa_rt.errors import EngineMismatchError
from diffvqa_rt.metrics.diffvqa.engines import engine_specs
from diffvqa_rt.metrics.diffvqa.metric import METRIC
from diffvqa_rt.metrics.diffvqa.presets import TINY
from diffvqa_rt.metrics.registry import METRICS, metric_named
from diffvqa_rt.serving.model_config import config_of_dali, config_of_engine, config_of_ensemble, config_of_program
from diffvqa_rt.serving.models import served_models, served_stages
from diffvqa_rt.serving.repository import assemble_repository, choose_form
from diffvqa_rt.serving.settings import RequestLimits, ServerConfig, ServerTls, StageSettings

GOLDEN = Path(__file__).parent / "golden"
FORMS = ("embedded", "production")
SPECS = {form: served_models(METRIC, TINY, form) for form in FORMS}


@pytest.fixture(scope="module", params=FORMS)
def settings(request, built_engines, cuda_engines) -> StageSettings:
    if request.param == "embedded":
        return settings_for(built_engines)
    pytest.importorskip("nvidia.dali", reason="needs DALI: pip install 'diffvqa-rt[dali]'")
    return settings_for(cuda_engines, form="production", backend="onnx-cuda")


@pytest.fixture(scope="module")
def repository(settings, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("repository") / "models"
    assemble_repository(settings, folder)
    return folder


@pytest.fixture(scope="module")
def configs(repository):
    return parsed(repository)


def test_there_is_a_model_for_every_stage_and_one_for_all(configs, repository, settings):
    stages = {"preprocess", "vae_encoder", "denoise", "head", "finish", "diffvqa"}
    ours = {"preprocess", "denoise", "finish"}
    if settings.form == "embedded":
        ours |= {"vae_encoder", "head"}
    else:
        stages |= {"dali", "unet_controller"}
    assert set(configs) == set(SPECS[settings.form]) == stages
    for name, config in configs.items():
        assert config.name == name
        assert (config.backend == "python") == (repository / name / "1" / "model.py").exists() == (name in ours)
    assert configs["diffvqa"].platform == "ensemble"


def test_a_config_has_the_names_types_and_dims_of_its_spec(configs, settings):
    for name, config in configs.items():
        assert_border(config, SPECS[settings.form][name])
        assert bool(config.max_batch_size) == (name == "dali")


def test_the_ensemble_joins_equal_tensors_and_gives_out_all_that_a_result_needs(configs):
    given_out = assert_joined(configs, "diffvqa")
    assert {"score", "frame_scores", "frame_weights", "timestamps_seconds", "video_info", "model"} < given_out


@pytest.mark.parametrize("name", METRICS)
def test_the_steps_of_an_embedded_ensemble_begin_one_by_one(name):
    """Triton server 2.51 ends where several begin together and their client has hung up."""
    metric = metric_named(name)
    for ensemble in served_models(metric, metric.presets["tiny"], "embedded").values():
        known, waiting = {spec.name for spec in ensemble.inputs}, list(ensemble.steps)
        while waiting:
            (ready,) = (step for step in waiting if known.issuperset(step.inputs.values()))
            known.update(ready.outputs.values())
            waiting.remove(ready)


@pytest.mark.parametrize("form", ["embedded", "production"])
@pytest.mark.parametrize("name", [name for name in METRICS if metric_named(name).with_steps])
def test_a_server_has_the_same_models_whatever_the_steps(name, form):
    metric = metric_named(name)
    preset = metric.presets["tiny"]
    fewer = metric.network_of_steps(preset, 10 if metric.steps(preset) > 10 else 1)
    assert served_models(metric, fewer, form) == served_models(metric, preset, form)


def test_engines_that_follow_each_other_are_timed_as_one():
    encode, denoise, score = METRIC.chain(TINY)
    assert served_stages((encode, denoise, score)) == METRIC.stages
    assert served_stages((encode, score, denoise)) == ("decode", "views", "vae_encoder+head", "denoise")


@pytest.mark.parametrize("kind", ["embedded-onnx", "production-onnx-cuda", "production-tensorrt"])
def test_a_printed_config_is_the_one_that_was_written_by_hand(kind):
    """`golden/` has the configs of before a chain printed them, but for the last model, which takes all results."""
    form, _, backend = kind.partition("-")
    golden = GOLDEN / kind
    models = SPECS[form]
    for path in golden.iterdir():
        expected, found = (in_protobuf(text) for text in (path.read_text(), printed(models[path.stem], backend)))
        added = found.parameters.keys() - expected.parameters.keys()
        for name in added:
            del found.parameters[name]
        assert found == expected, path
        assert added <= {"settings", *models[path.stem].parameters}
    if backend != "tensorrt":  # whose other models are those of onnx-cuda
        assert {path.stem for path in golden.iterdir()} == set(models)


def printed(model, backend: str) -> str:
    if model.program is not None:
        return config_of_program(model, "{}")
    if model.engine == "dali":
        return config_of_dali(model)
    if model.engine is not None:
        theirs, suffix = {"tensorrt": ("tensorrt", "plan"), "onnx-cuda": ("onnxruntime", "onnx")}[backend]
        return config_of_engine(model, theirs, f"{model.engine}.{suffix}")
    return config_of_ensemble(model)


def test_settings_cross_over_unchanged(configs, settings):
    crossed = [c.parameters["settings"].string_value for c in configs.values() if c.backend == "python"]
    assert len(crossed) >= 3
    assert {StageSettings.from_json(text) for text in crossed} == {settings}
    with pytest.raises(TypeError, match="surprise"):
        StageSettings.from_json(json.dumps({**json.loads(crossed[0]), "surprise": 1}))


def test_models_refuse_a_folder_that_was_built_again_since(engines_copy):
    settings = settings_for(engines_copy)
    settings.manifest()
    (engines_copy / "manifest.json").write_text((engines_copy / "manifest.json").read_text() + "\n")
    with pytest.raises(EngineMismatchError, match="changed since the server started"):
        settings.manifest()


# The production form: Triton server's own backends.


def production_repository(folder: Path, target: Path, backend: str) -> Path:
    pytest.importorskip("nvidia.dali", reason="needs DALI: pip install 'diffvqa-rt[dali]'")
    assemble_repository(settings_for(folder, form="production", backend=backend), target)
    return target


@pytest.mark.parametrize(("backend", "theirs"), [("onnx-cuda", "onnxruntime"), ("tensorrt", "tensorrt")])
def test_engines_go_to_triton_servers_own_backends(cuda_engines, tmp_path, backend, theirs):
    folder = Path(shutil.copytree(cuda_engines, tmp_path / "engines"))
    manifest = json.loads((folder / "manifest.json").read_text())
    rtx = manifest["backends"].get("tensorrt-rtx")
    if backend == "tensorrt":
        if rtx is None:
            pytest.skip("TensorRT for RTX, whose plans stand for TensorRT's, is not installed")
        manifest["backends"]["tensorrt"] = rtx
        (folder / "manifest.json").write_text(json.dumps(manifest))
    repository = production_repository(folder, tmp_path / "models", backend)
    for name, config in parsed(repository).items():
        if name not in engine_specs(TINY):
            continue
        record = manifest["backends"][backend]
        listed = record["engines"][name]["file"]
        assert (config.backend, config.default_model_filename) == (theirs, Path(listed).name)
        (instances,) = config.instance_group
        assert (instances.count, instances.kind, list(instances.gpus)) == (1, instances.KIND_GPU, [0])
        assert list(instances.profile) == (["0"] if backend == "tensorrt" else [])
        for file in (repository / name / "1").iterdir():
            assert file.read_bytes() == (folder / Path(listed).parent / file.name).read_bytes()
        assert (repository / name / "1" / config.default_model_filename).exists()


def test_triton_server_gets_no_engine_that_was_changed(cuda_engines, tmp_path):
    folder = Path(shutil.copytree(cuda_engines, tmp_path / "engines"))
    data = folder / "onnx" / "head.onnx.data"
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)
    with pytest.raises(EngineMismatchError, match=r"head\.onnx\.data was changed after it was built"):
        production_repository(folder, tmp_path / "models", "onnx-cuda")


def test_the_form_follows_from_what_is_there(built_engines, tmp_path):
    record = Manifest.read(built_engines).backends["onnx"]
    for name in ("python", "dali", "onnxruntime"):
        assert choose_form("onnx-cuda", record, tmp_path) == "embedded"
        (tmp_path / name).mkdir()
    assert choose_form("onnx-cuda", record, tmp_path) == "production"
    assert choose_form("onnx-cuda", record, None) == "embedded"
    assert choose_form("onnx", record, tmp_path) == "embedded"  # a CPU's engines
    assert choose_form("tensorrt", record, tmp_path) == "embedded"
    (tmp_path / "tensorrt").mkdir()
    assert choose_form("tensorrt", record, tmp_path) == "production"
    stripped = dataclasses.replace(record, settings={"STRIP_PLAN": "on"})
    assert choose_form("tensorrt", stripped, tmp_path) == "embedded"
    assert record.max_videos is None
    assert dataclasses.replace(record, settings={MAX_VIDEOS: "4"}).max_videos == 4


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda path: RequestLimits(max_frames=0), "max_frames is 0"),
        (lambda path: RequestLimits(max_decode_seconds=-1), "max_decode_seconds is -1"),
        (lambda path: RequestLimits(max_decode_memory_bytes=200 << 20), "200 MiB; expected at least 256"),
        (lambda path: ServerConfig(engines=path, host="::1"), "expected a name or an IPv4 address"),
        (lambda path: ServerConfig(engines=path, port=8000), "three different ones"),
        (lambda path: ServerConfig(engines=path, port=70000), "below 65536"),
        (lambda path: ServerTls(cert=path / "no.pem", key=path / "no.key"), "no.pem; expected a file in PEM format"),
        (lambda path: ServerTls(cert=None, key=path / "no.key"), "certificate is None"),
    ],
)
def test_bad_settings_are_refused(make, complaint, tmp_path):
    with pytest.raises(ValueError, match=complaint):
        make(tmp_path)
