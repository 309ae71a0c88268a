"""The model repository of a server: `triton_repo/` from the sources, its configs filled in for one engine folder."""

import json
import shutil
import sys
from pathlib import Path
from string import Template

from diffvqa_rt.errors import DiffVQAError
from diffvqa_rt.serving.settings import StageSettings
from diffvqa_rt.specs import DType, ModelSpec, TensorSpec, served_specs

_TRITON_TYPES: dict[DType, str] = {
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "int64": "TYPE_INT64",
    "int32": "TYPE_INT32",
    "uint8": "TYPE_UINT8",
}

# In a checkout, and as the wheel installs it.
_TEMPLATES = (
    Path(__file__).parents[2] / "triton_repo",
    Path(sys.prefix, "share", "diffvqa_rt", "triton_repo"),
)


def assemble_repository(settings: StageSettings, target: Path) -> None:
    """Writes the served models of an engine folder into the new folder `target`.

    Raises:
        EngineMismatchError: the engine folder is none.
        DiffVQAError: this installation came without the served models.
    """
    templates = next((folder for folder in _TEMPLATES if folder.is_dir()), None)
    if templates is None:
        raise DiffVQAError(f"the served models are missing ({_TEMPLATES[-1]}); install diffvqa-rt again")
    for name, spec in served_specs(settings.manifest().config, settings.form).items():
        template = (templates / name / "config.pbtxt").read_text(encoding="utf-8")
        versions = target / name / "1"
        versions.mkdir(parents=True)
        (target / name / "config.pbtxt").write_text(_rendered(template, spec, settings), encoding="utf-8")
        model = templates / name / "1" / "model.py"
        if model.exists():  # an ensemble has none
            shutil.copy(model, versions)


def _rendered(template: str, spec: ModelSpec, settings: StageSettings) -> str:
    # JSON's escapes are those of a string in protobuf's text format.
    return Template(template).substitute(
        inputs=_tensors(spec.inputs, spec.optional),
        outputs=_tensors(spec.outputs),
        settings=json.dumps(settings.to_json()),
    )


def _tensors(specs: tuple[TensorSpec, ...], optional: frozenset[str] = frozenset()) -> str:
    return ",\n".join(
        f'  {{ name: "{spec.name}", data_type: {_TRITON_TYPES[spec.dtype]}, dims: [ {_dims(spec)} ]'
        f"{', optional: true' if spec.name in optional else ''} }}"
        for spec in specs
    )


def _dims(spec: TensorSpec) -> str:
    return ", ".join("-1" if isinstance(size, str) else str(size) for size in spec.shape)
