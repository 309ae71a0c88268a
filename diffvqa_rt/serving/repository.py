"""The model repository of a server: `triton_repo/` from the sources, its configs filled in for one engine folder.

A served model is a folder of `triton_repo/` with its config's template and its `1/model.py`. Where the production form
differs, that is `config.production.pbtxt`; the engines' configs are `tensorrt.pbtxt` and `onnxruntime.pbtxt` there.
"""

import json
import shutil
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from string import Template

from diffvqa_rt.engines import BackendName
from diffvqa_rt.engines.manifest import BackendRecord, Manifest
from diffvqa_rt.engines.verification import copy_verified, listed_data_files, read_verified
from diffvqa_rt.errors import DiffVQAError
from diffvqa_rt.metrics.diffvqa.engines import engine_specs
from diffvqa_rt.serving.models import Form, ModelSpec, served_specs
from diffvqa_rt.serving.settings import StageSettings
from diffvqa_rt.specs import DType, TensorSpec

_TRITON_TYPES: dict[DType, str] = {
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "int64": "TYPE_INT64",
    "int32": "TYPE_INT32",
    "uint8": "TYPE_UINT8",
    "bool": "TYPE_BOOL",
}

# In a checkout, and as the wheel installs it.
_TEMPLATES = (
    Path(__file__).parents[2] / "triton_repo",
    Path(sysconfig.get_path("data"), "share", "diffvqa_rt", "triton_repo"),
)

_TRITON_BACKENDS: dict[BackendName, str] = {"tensorrt": "tensorrt", "onnx-cuda": "onnxruntime"}


def choose_form(backend: BackendName, record: BackendRecord, backends: Path | None) -> Form:
    """`production` where Triton server has what it takes to play these engines by itself, `embedded` elsewhere.

    Args:
        backend: which of the folder's engines to play.
        record: of that backend.
        backends: the folder of Triton server's own backends, if it has one.
    """
    ours = _TRITON_BACKENDS.get(backend)
    if ours is None or backends is None or record.is_stripped:  # Triton server has no refit
        return "embedded"
    return "production" if all((backends / name).is_dir() for name in (ours, "dali", "python")) else "embedded"


def assemble_repository(settings: StageSettings, target: Path) -> None:
    """Writes the served models of an engine folder into the new folder `target`.

    In the production form Triton server opens the engines itself, so they are copied there, and the copies verified.

    Raises:
        EngineMismatchError: the engine folder is none, or not as it was built.
        DiffVQAError: this installation came without the served models, or without DALI.
    """
    templates = next((folder for folder in _TEMPLATES if folder.is_dir()), None)
    if templates is None:
        raise DiffVQAError(f"the served models are missing ({_TEMPLATES[-1]}); install diffvqa-rt again")
    manifest = settings.manifest()
    record = manifest.backends[settings.backend]
    for name, spec in served_specs(manifest.config, settings.form).items():
        version = target / name / "1"
        version.mkdir(parents=True)
        file = ""
        if settings.form == "production" and name in engine_specs(manifest.config):
            file = _copy_engine(Path(settings.engines), record, name, version)
            template = templates / f"{_TRITON_BACKENDS[settings.backend]}.pbtxt"
        else:
            template = templates / name / "config.pbtxt"
            production = template.with_name("config.production.pbtxt")
            if settings.form == "production" and production.exists():
                template = production
            if (model := templates / name / "1" / "model.py").exists():  # an ensemble has none
                shutil.copy(model, version)
        if name == "dali":
            _write_dali_model(version / "model.dali", manifest)
        values = {"name": name, "file": file}
        text = _rendered(template.read_text(encoding="utf-8"), spec, settings, values)
        (target / name / "config.pbtxt").write_text(text, encoding="utf-8")


def _copy_engine(folder: Path, record: BackendRecord, name: str, target: Path) -> str:
    """Copies an engine's files and verifies the copies. Returns the name of the one that Triton server is to open."""
    file = record.engines[name].file
    files = [file]
    if file.endswith(".onnx"):
        model = read_verified(folder, file, record.files[file])
        files += listed_data_files(model, file, folder, record.files.keys()).values()
    for listed in files:
        copy_verified(folder, listed, record.files[listed], target / Path(listed).name)
    return Path(file).name


def _write_dali_model(path: Path, manifest: Manifest) -> None:
    try:
        from diffvqa_rt.metrics.diffvqa.dali import write_model
    except ModuleNotFoundError as error:
        raise DiffVQAError(
            f"the production form needs {error.name}, which is not installed; Triton server's image has it in "
            "/opt/tritonserver/backends/dali/wheel/dali, which PYTHONPATH is to name"
        ) from error
    write_model(path, manifest.config.view_size)


def _rendered(template: str, spec: ModelSpec, settings: StageSettings, values: Mapping[str, str]) -> str:
    return Template(template).substitute(
        values,
        inputs=_tensors(spec.inputs, spec.optional),
        outputs=_tensors(spec.outputs),
        row_inputs=_tensors(_rows(spec.inputs)),
        row_outputs=_tensors(_rows(spec.outputs)),
        # JSON's escapes are those of a string in protobuf's text format.
        settings=json.dumps(settings.to_json()),
    )


def _rows(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """Without the leading axis, which Triton server adds to what it batches."""
    return tuple(TensorSpec(spec.name, spec.dtype, spec.shape[1:]) for spec in specs)


def _tensors(specs: tuple[TensorSpec, ...], optional: frozenset[str] = frozenset()) -> str:
    return ",\n".join(
        f'  {{ name: "{spec.name}", data_type: {_TRITON_TYPES[spec.dtype]}, dims: [ {_dims(spec)} ]'
        f"{', optional: true' if spec.name in optional else ''} }}"
        for spec in specs
    )


def _dims(spec: TensorSpec) -> str:
    return ", ".join("-1" if isinstance(size, str) else str(size) for size in spec.shape)
