"""TensorRT plugins that carry the scan's Triton kernels, compiled ahead of time, inside the engine.

A plugin of TensorRT launches one kernel, so the operator is three of them, in the order of `forward.py`:

    diffvqa::scan_chunk_states → diffvqa::scan_carry_states → diffvqa::scan_chunk_outputs

`attach_functions(program, runtime="tensorrt")` writes an exported model's nodes in these terms; `register_plugins()`
makes them known to TensorRT's builder and ONNX parser. The engine needs neither Python nor Triton. On a machine with
TensorRT and a GPU, this checks an engine against the float64 reference:

    python -m diffvqa_kernels.selective_scan.tensorrt
"""

import re
import sys
from collections.abc import Mapping

import tensorrt as trt
import tensorrt.plugin as trtp
import triton

from diffvqa_kernels.aot import Build, compile_for
from diffvqa_kernels.selective_scan import forward, tuning

# PTX for 8.0 runs on every later GPU; Triton's for 9.0 and up is bound to that very architecture.
ARCHITECTURE = "sm_80"
_DTYPES = {trt.float32: "float32", trt.float16: "float16", trt.bfloat16: "bfloat16"}

AotImplementation = tuple[str, str, trtp.KernelLaunchParams, trtp.SymIntExprs]


def register_plugins(*, lazy: bool = False) -> None:
    """Make the three plugins known to TensorRT.

    Args:
        lazy: leave out the registry of the TensorRT library; enough for the network API, not for the ONNX parser.
    """
    for name, describe, implement in (
        ("scan_chunk_states", _describe_chunk_states, _chunk_states),
        ("scan_carry_states", _describe_carry_states, _carry_states),
        ("scan_chunk_outputs", _describe_chunk_outputs, _chunk_outputs),
    ):
        trtp.register(f"diffvqa::{name}", lazy_register=lazy)(describe)
        trtp.aot_impl(f"diffvqa::{name}")(implement)


def _describe_chunk_states(
    u: trtp.TensorDesc, delta: trtp.TensorDesc, A: trtp.TensorDesc, B: trtp.TensorDesc, delta_bias: trtp.TensorDesc
) -> tuple[trtp.TensorDesc, trtp.TensorDesc]:
    batch, directions, dim, length = u.shape_expr
    chunks = trtp.cdiv(length, forward.CHUNK)
    states = trtp.from_shape_expr((batch, directions, chunks, A.shape_expr[2], dim), trt.float32)
    return states, trtp.from_shape_expr((batch, directions, chunks, dim), trt.float32)


def _chunk_states(u, delta, A, B, delta_bias, outputs, tactic) -> AotImplementation:
    batch, directions, dim, length = u.shape_expr
    build = _build(forward._chunk_states, {"ADJOINT": False, "CHUNK": forward.CHUNK}, u, A)
    grid = (trtp.cdiv(length, forward.CHUNK), trtp.cdiv(dim, build.constants["BLOCK_D"]), batch * directions)
    return _launch(build, grid, _sizes(u, A))


def _describe_carry_states(states: trtp.TensorDesc, step_sums: trtp.TensorDesc, A: trtp.TensorDesc) -> trtp.TensorDesc:
    return states.like()


def _carry_states(states, step_sums, A, outputs, tactic) -> AotImplementation:
    batch, directions, chunks, d_state, dim = states.shape_expr
    constants = {"ADJOINT": False, "BLOCK_CHUNKS": forward.CARRY_BLOCK_CHUNKS, "BLOCK_D": forward.CARRY_BLOCK_D}
    build = Build(
        name="carry_states",
        function=forward._carry_states,
        constants=constants,
        num_warps=1,
        dtype="float32",
        layout="natural",
        weights_dtype=_DTYPES[A.dtype],
        multiples_of_16=(),
    )
    grid = (trtp.cdiv(dim, forward.CARRY_BLOCK_D), d_state, batch * directions)
    return _launch(build, grid, {"chunks": chunks, "dim": dim, "d_state": d_state})


def _describe_chunk_outputs(
    u: trtp.TensorDesc,
    delta: trtp.TensorDesc,
    A: trtp.TensorDesc,
    B: trtp.TensorDesc,
    C: trtp.TensorDesc,
    D: trtp.TensorDesc,
    z: trtp.TensorDesc,
    delta_bias: trtp.TensorDesc,
    states: trtp.TensorDesc,
) -> tuple[trtp.TensorDesc, trtp.TensorDesc]:
    batch, _, dim, length = u.shape_expr
    return trtp.from_shape_expr((batch, dim, length), trt.float32), z.like()


def _chunk_outputs(u, delta, A, B, C, D, z, delta_bias, states, outputs, tactic) -> AotImplementation:
    batch, _, dim, length = u.shape_expr
    build = _build(forward._chunk_outputs, {"CHUNK": forward.CHUNK}, u, A)
    grid = (trtp.cdiv(length, forward.CHUNK), trtp.cdiv(dim, build.constants["BLOCK_D"]), batch)
    return _launch(build, grid, _sizes(u, A))


def _build(kernel, flags: dict, u: trtp.TensorDesc, A: trtp.TensorDesc) -> Build:
    """The kernel in its first tile shape: a GPU to time the others on is not at hand while a plugin is described."""
    block_n = triton.next_power_of_2(A.shape_expr[2].constant_value())
    config = tuning.prune(tuning.tile_configs(), {}, BLOCK_N=block_n)[0]
    return Build(
        name=kernel.base_fn.__name__,
        function=kernel.fn,
        constants=flags | config.kwargs | {"BLOCK_N": block_n},
        num_warps=config.num_warps,
        dtype=_DTYPES[u.dtype],
        layout="natural",
        weights_dtype=_DTYPES[A.dtype],
        multiples_of_16=(),
    )


def _sizes(u: trtp.TensorDesc, A: trtp.TensorDesc) -> dict[str, object]:
    """The kernels' integer arguments for contiguous tensors."""
    _, directions, dim, length = u.shape_expr
    d_state = A.shape_expr[2]
    sizes = {"dim": dim, "d_state": d_state, "length": length}
    for name, rows, row_axis in (
        ("u", dim, "dim"),
        ("delta", dim, "dim"),
        ("B", d_state, "state"),
        ("C", d_state, "state"),
    ):
        sizes[f"{name}_batch"] = directions * rows * length
        sizes[f"{name}_direction"] = rows * length
        sizes[f"{name}_{row_axis}"] = length
    for name in ("z", "out"):
        sizes[f"{name}_batch"] = dim * length
        sizes[f"{name}_dim"] = length
    return sizes


def _launch(build: Build, grid: tuple, sizes: Mapping[str, object]) -> AotImplementation:
    kernel = compile_for(build, ARCHITECTURE)
    arguments = build.runtime_arguments()
    parameters = trtp.KernelLaunchParams()
    parameters.grid_x, parameters.grid_y, parameters.grid_z = grid
    parameters.block_x = build.num_warps * 32
    parameters.shared_mem = kernel.metadata.shared
    integers = tuple(trtp.SymInt32(sizes[name]) for name in arguments if not name.endswith("_ptr"))
    ptx = without_hidden_parameters(kernel.asm["ptx"], len(arguments))
    return kernel.metadata.name, ptx, parameters, trtp.SymIntExprs.from_tuple(integers)


def without_hidden_parameters(ptx: str, count: int) -> str:
    """The PTX with `count` parameters: Triton appends pointers to scratch memory, which TensorRT would not pass.

    Raises:
        ValueError: the kernel uses one of them, or has fewer parameters than `count`.
    """
    entry = re.search(r"\.entry\s+\w+\((.*?)\)", ptx, re.DOTALL)
    parameters = [] if entry is None else entry[1].split(",")
    if entry is None or len(parameters) < count:
        raise ValueError(f"the kernel has {len(parameters)} parameters: expected at least {count}")
    ptx = ptx[: entry.start(1)] + ",".join(parameters[:count]) + "\n" + ptx[entry.end(1) :]
    for parameter in parameters[count:]:
        name = parameter.split()[-1]
        if re.search(rf"\b{name}\b", ptx):
            raise ValueError(f"the kernel uses Triton's scratch memory ({name}), which TensorRT can't provide")
    return ptx


def _check_on_gpu() -> float:
    """Build an engine of the operator for this GPU, run it, and return its relative error."""
    import torch

    from diffvqa_kernels import testing
    from diffvqa_kernels.selective_scan import bidirectional_selective_scan

    register_plugins()
    inputs = testing.bidirectional_inputs(2, 384, 16, 4609, device="cuda")
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    t = {name: network.add_input(name, trt.float32, tuple(value.shape)) for name, value in inputs._asdict().items()}

    def add(plugin, *tensors):
        layer = network.add_plugin(plugin(*tensors), aot=True)
        return [layer.get_output(i) for i in range(layer.num_outputs)]

    plugins = trtp.op.diffvqa
    states, sums = add(plugins.scan_chunk_states, t["u"], t["delta"], t["A"], t["B"], t["delta_bias"])
    (carried,) = add(plugins.scan_carry_states, states, sums, t["A"])
    _, out = add(plugins.scan_chunk_outputs, *t.values(), carried)
    out.name = "out"
    network.mark_output(out)
    plan = builder.build_serialized_network(network, builder.create_builder_config())
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    context = engine.create_execution_context()
    result = torch.full_like(inputs.z, float("nan"))
    for name, tensor in (inputs._asdict() | {"out": result}).items():
        context.set_tensor_address(name, tensor.data_ptr())
    context.execute_async_v3(torch.cuda.current_stream().cuda_stream)
    torch.cuda.synchronize()
    want = bidirectional_selective_scan(*testing.in_float64(inputs), backend="chunked")
    return testing.relative_error(result, want)


def main() -> int:
    error = _check_on_gpu()
    print(f"relative error against float64: {error:.2e}")
    return int(not error <= 2e-6)


if __name__ == "__main__":
    sys.exit(main())
