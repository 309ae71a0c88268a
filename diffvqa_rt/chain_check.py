"""The proof that a chain fits its engines, before any of them runs."""

from collections.abc import Mapping, Sequence

from diffvqa_rt.chain import STEP, Call, Chain, Loop
from diffvqa_rt.specs import Dimension, EngineSpec, TensorSpec


def check_chain(chain: Chain, engines: Mapping[str, EngineSpec], given: Sequence[TensorSpec]) -> dict[str, TensorSpec]:
    """Proves that a chain fits its engines.

    Args:
        chain: the chain.
        engines: the borders of its engines.
        given: the tensors that the chain reads and does not make.

    Returns:
        Every tensor of the chain by name, with the sizes that follow from those that are given.

    Raises:
        ValueError: a tensor is not there, is made twice, or is not as the engine takes it; or a loop carries or keeps
            what its engine does not give.
    """
    tensors = {spec.name: spec for spec in given}
    for item in chain:
        if item.engine not in engines:
            raise ValueError(f"{item.stage}: there is no engine {item.engine}, only {', '.join(engines)}")
        spec = engines[item.engine]
        made = _loop_outputs(item, spec, tensors) if isinstance(item, Loop) else _call_outputs(item, spec, tensors)
        if twice := made.keys() & tensors.keys():
            raise ValueError(f"{item.stage} makes {', '.join(sorted(twice))}, which is there already")
        tensors |= made
    return tensors


def _call_outputs(call: Call, spec: EngineSpec, tensors: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    outputs = _outputs(call.stage, spec, {name: name for name in call.inputs}, tensors)
    if unknown := set(call.outputs) - outputs.keys():
        raise ValueError(f"{call.stage} does not give {', '.join(sorted(unknown))}, only {', '.join(outputs)}")
    return {name: outputs[name] for name in call.outputs}


def _loop_outputs(loop: Loop, spec: EngineSpec, tensors: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    if loop.carry.keys() != loop.start.keys():
        raise ValueError(f"{loop.stage} carries {', '.join(loop.carry)} and starts {', '.join(loop.start)}")
    sources = {name: name for name in loop.inputs} | dict(loop.start) | {STEP: STEP}
    outputs = _outputs(loop.stage, spec, sources, {**tensors, STEP: TensorSpec(STEP, "int64", (1,))})
    carried = {spec.name: spec for spec in spec.inputs}
    for name, output in loop.carry.items():
        given = outputs.get(output)
        if given is None or (given.dtype, len(given.shape)) != (carried[name].dtype, len(carried[name].shape)):
            raise ValueError(f"{loop.stage} carries {output} into {name}, which are not alike")
    for name, (output, turn) in loop.keep.items():
        if output not in outputs or not 0 <= turn < loop.count:
            raise ValueError(f"{loop.stage} has no {output} of turn {turn} to keep as {name}")
    return {
        name: TensorSpec(name, outputs[output].dtype, outputs[output].shape) for name, (output, _) in loop.keep.items()
    }


def _outputs(
    stage: str, spec: EngineSpec, sources: Mapping[str, str], tensors: Mapping[str, TensorSpec]
) -> dict[str, TensorSpec]:
    """The outputs of an engine whose inputs are these tensors of the chain, each dimension that follows in numbers."""
    if sources.keys() != {tensor.name for tensor in spec.inputs}:
        raise ValueError(f"{stage} is given {', '.join(sources)}; {spec.name} takes {', '.join(spec.input_names)}")
    sizes: dict[str, Dimension] = {}
    for tensor in spec.inputs:
        given = tensors.get(sources[tensor.name])
        if given is None:
            raise ValueError(f"{stage} reads {sources[tensor.name]}, which nothing before it makes")
        is_pixels = given.dtype == "uint8" and tensor.name in spec.pixels
        fits = len(given.shape) == len(tensor.shape) and (given.dtype == tensor.dtype or is_pixels)
        for size, dimension in zip(given.shape, tensor.shape, strict=False):
            expected = sizes.setdefault(dimension, size) if isinstance(dimension, str) else dimension
            fits = fits and size == expected
        if not fits:
            raise ValueError(
                f"{stage} takes {tensor.name} as {tensor.dtype} {tensor.shape}; {given.name} is {given.dtype} "
                f"{given.shape}"
            )
    return {
        tensor.name: TensorSpec(
            tensor.name,
            tensor.dtype,
            tuple(sizes.get(size, size) if isinstance(size, str) else size for size in tensor.shape),
        )
        for tensor in spec.outputs
    }
