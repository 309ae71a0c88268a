"""A served model's `config.pbtxt`, in protobuf's text format."""

import json
from collections.abc import Iterable

from diffvqa_rt.serving.models import EnsembleStep, ServedModel
from diffvqa_rt.specs import DType, TensorSpec

_TYPES: dict[DType, str] = {
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "int64": "TYPE_INT64",
    "int32": "TYPE_INT32",
    "uint8": "TYPE_UINT8",
    "bool": "TYPE_BOOL",
}

# One instance of an engine: each has the weights, and device memory for the largest input, to itself.
_ENGINES = {
    "tensorrt": """
platform: "tensorrt_plan"
instance_group [ { count: 1, kind: KIND_GPU, gpus: [ 0 ], profile: [ "0" ] } ]
""",
    # float32 is float32: TF32 keeps 10 bits. `cudnn_conv_algo_search` 1 is HEURISTIC: a stopwatch, which differs from
    # start to start, chooses no kernel; it stands here, since the backend overwrites it where `use_tf32` is set
    # (triton-inference-server/server#8808). `arena_extend_strategy` 1: as much memory as is asked for, not twice.
    "onnxruntime": """
platform: "onnxruntime_onnx"
instance_group [ { count: 1, kind: KIND_GPU, gpus: [ 0 ] } ]
optimization { execution_accelerators { gpu_execution_accelerator: [
  { name: "cuda", parameters { key: "use_tf32", value: "0" } }
] } }
parameters { key: "cudnn_conv_algo_search", value { string_value: "1" } }
parameters { key: "arena_extend_strategy", value { string_value: "1" } }
""",
}
# One row at a time: DALI fails a whole batch for one row's error, and a video must not fail another. One thread feeds
# the row's decoder.
_DALI = """
backend: "dali"
max_batch_size: 1
instance_group [ { count: 1, kind: KIND_GPU, gpus: [ 0 ] } ]
parameters { key: "num_threads", value { string_value: "1" } }
"""


def config_of_ensemble(model: ServedModel) -> str:
    steps = ",\n".join(_step(step) for step in model.steps)
    return (
        f'{_border(model)}platform: "ensemble"\nmax_batch_size: 0\nensemble_scheduling {{\n  step [\n{steps}\n  ]\n}}\n'
    )


def config_of_program(model: ServedModel, settings: str) -> str:
    """The config of a model that our Python plays; `settings` is `StageSettings.to_json`."""
    # JSON's escapes are those of a string in protobuf's text format.
    parameters = "".join(
        f"parameters {{ key: {json.dumps(name)}, value {{ string_value: {json.dumps(value)} }} }}\n"
        for name, value in {"settings": settings, **model.parameters}.items()
    )
    instances = f"instance_group [ {{ count: {model.instances}, kind: KIND_CPU }} ]\n"
    return f'{_border(model)}backend: "python"\nmax_batch_size: 0\n{instances}{parameters}'


def config_of_engine(model: ServedModel, backend: str, file: str) -> str:
    """The config of an engine's file that a backend of Triton server plays."""
    name = f'backend: "{backend}"\ndefault_model_filename: "{file}"\nmax_batch_size: 0'
    return f"{_border(model)}{name}{_ENGINES[backend]}"


def config_of_dali(model: ServedModel) -> str:
    """The config of DALI's graph. Triton server adds the leading axis to what it batches, so it is left out."""
    return _border(model, first_axis=1) + _DALI.lstrip()


def _border(model: ServedModel, first_axis: int = 0) -> str:
    """Name, inputs and outputs. Videos are an axis of the tensors: crops of one video are rows of it."""

    def tensors(specs: Iterable[TensorSpec], optional: frozenset[str] = frozenset()) -> str:
        return ",\n".join(
            f'  {{ name: "{spec.name}", data_type: {_TYPES[spec.dtype]}, dims: [ {_dims(spec, first_axis)} ]'
            f"{', optional: true' if spec.name in optional else ''} }}"
            for spec in specs
        )

    inputs, outputs = tensors(model.inputs, model.optional), tensors(model.outputs)
    return f'name: "{model.name}"\ninput [\n{inputs}\n]\noutput [\n{outputs}\n]\n'


def _dims(spec: TensorSpec, first_axis: int) -> str:
    return ", ".join("-1" if isinstance(size, str) else str(size) for size in spec.shape[first_axis:])


def _step(step: EnsembleStep) -> str:
    maps = [("input_map", step.inputs), ("output_map", step.outputs)]
    lines = [
        f'      {kind} {{ key: "{key}", value: "{value}" }}' for kind, names in maps for key, value in names.items()
    ]
    return "\n".join(["    {", f'      model_name: "{step.model}"', "      model_version: -1", *lines, "    }"])
