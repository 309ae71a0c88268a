"""Compile every Triton kernel ahead of time, for GPUs that this machine does not have.

    python -m diffvqa_kernels.aot --arch sm_80,sm_90 --out kernels_aot

Per kernel and architecture: a cubin, the PTX, and a JSON file with what a launcher must know. Printed: registers,
shared memory and bytes spilled; the exit code is 1 where a kernel spills.
"""

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

from diffvqa_kernels.selective_scan import backward, forward, tuning

ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
# Which axis of u, delta, B, C, z and out is contiguous.
LAYOUTS = ("channels_last", "natural")
_WEIGHT_POINTERS = ("A_ptr", "D_ptr", "delta_bias_ptr")
# Intermediate results, which are float32 whatever the inputs are.
_FLOAT32_POINTERS = (
    *("states_ptr", "step_sums_ptr", "carried_ptr", "partial_ptr", "adjoints_ptr", "y_ptr"),
    *("grad_y_ptr", "grad_A_ptr", "grad_B_ptr", "grad_C_ptr"),
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Build:
    """One kernel with its compile-time constants.

    Args:
        name: of the files, and of the row in the table.
        function: the kernel.
        constants: the values of its `constexpr` arguments.
        num_warps: warps a program.
        dtype: of the inputs and outputs, a key of `DTYPES`.
        layout: an entry of `LAYOUTS`.
        weights_dtype: of A, D and delta_bias.
        multiples_of_16: sizes that the kernel may count on to divide by 16.
    """

    name: str
    function: triton.JITFunction
    constants: dict[str, int | bool]
    num_warps: int
    dtype: str
    layout: str
    weights_dtype: str = "float32"
    multiples_of_16: tuple[str, ...] = ("dim", "d_state")

    def source(self) -> ASTSource:
        """The kernel with its signature: strides of the contiguous axis are 1, pointers are multiples of 16."""
        signature, constants, attributes = {}, dict(self.constants), {}
        for index, argument in enumerate(self.function.arg_names):
            divisible = argument.endswith("_ptr") or argument in self.multiples_of_16
            if argument in constants:
                signature[argument] = "constexpr"
            elif argument.endswith("_ptr"):
                signature[argument] = f"*{DTYPES[self._pointer_dtype(argument)]}"
            elif argument.endswith(self._contiguous_axis()):
                signature[argument], constants[argument] = "constexpr", 1
            else:
                signature[argument] = "i32"
                divisible |= self.layout == "channels_last" and "_" in argument
            if divisible and signature[argument] != "constexpr":
                attributes[(index,)] = [["tt.divisibility", 16]]
        keys = {(self.function.arg_names.index(name),): value for name, value in constants.items()}
        return ASTSource(fn=self.function, signature=signature, constexprs=keys, attrs=attributes)

    def runtime_arguments(self) -> list[str]:
        """The arguments that a launcher passes, in order."""
        return [name for name, kind in self.source().signature.items() if kind != "constexpr"]

    def _pointer_dtype(self, argument: str) -> str:
        if argument in _FLOAT32_POINTERS:
            return "float32"
        return self.weights_dtype if argument in _WEIGHT_POINTERS else self.dtype

    def _contiguous_axis(self) -> tuple[str, ...]:
        return ("_length",) if self.layout == "natural" else ("_dim", "B_state", "C_state")


def builds(dtype: str, layout: str, d_state: int) -> Iterator[Build]:
    """Every kernel in every configuration that the bidirectional operator may choose."""
    block_n = triton.next_power_of_2(d_state)

    def named(name: str, kernel, constants: dict, num_warps: int) -> Build:
        function = kernel if isinstance(kernel, triton.JITFunction) else kernel.fn
        return Build(name=name, function=function, constants=constants, num_warps=num_warps, dtype=dtype, layout=layout)

    for config in tuning.prune(tuning.tile_configs(), {}, BLOCK_N=block_n):
        tile, warps = config.kwargs | {"BLOCK_N": block_n}, config.num_warps
        label = f"tile{tile['TILE']}x{tile['BLOCK_D']}"
        states = tile | {"CHUNK": forward.CHUNK, "ADJOINT": False}
        yield named(f"chunk_states.{label}", forward._chunk_states, states, warps)
        outputs = tile | {"CHUNK": forward.CHUNK}
        yield named(f"chunk_outputs.{label}", forward._chunk_outputs, outputs, warps)
        adjoints = tile | {"CHUNK": backward.CHUNK, "ADJOINT": True}
        yield named(f"chunk_adjoints.{label}", forward._chunk_states, adjoints, warps)
    blocks = {"BLOCK_CHUNKS": forward.CARRY_BLOCK_CHUNKS, "BLOCK_D": forward.CARRY_BLOCK_D}
    carry = blocks | {"ADJOINT": False}
    yield named("carry_states", forward._carry_states, carry, 1)
    tile, block_d, warps = backward.gradient_tile(block_n)
    gradients = {"TILE": tile, "BLOCK_N": block_n, "BLOCK_D": block_d, "CHUNK": backward.CHUNK}
    yield named("chunk_gradients", backward._chunk_gradients, gradients, warps)


def compile_for(build: Build, architecture: str) -> CompiledKernel:
    """The kernel compiled for `sm_…`; needs no GPU."""
    target = GPUTarget("cuda", int(architecture.removeprefix("sm_")), 32)
    options = {"num_warps": build.num_warps, "maxnreg": tuning.MAX_REGISTERS}
    return triton.compile(build.source(), target=target, options=options)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Resources of a compiled kernel: registers a thread, shared bytes a program, bytes spilled a thread."""

    registers: int
    shared_bytes: int
    spilled_bytes: int


def usage(kernel: CompiledKernel) -> Usage:
    """The resources of a kernel, read from its cubin with the cuobjdump that Triton brings."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernel.cubin")
        cubin.write_bytes(kernel.asm["cubin"])
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", str(cubin)]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+)", report)
    if found is None:
        raise RuntimeError(f"cuobjdump reported no resource usage: {report!r}")
    # These kernels call nothing, so a stack frame is spilled registers.
    return Usage(registers=int(found[1]), spilled_bytes=int(found[2]), shared_bytes=kernel.metadata.shared)


def write(build: Build, architecture: str, kernel: CompiledKernel, used: Usage, folder: Path) -> None:
    """`<name>.<layout>.<dtype>.<arch>` with the suffixes .cubin, .ptx and .json, in `folder`."""
    stem = folder / f"{build.name}.{build.layout}.{build.dtype}.{architecture}"
    description = {
        "symbol": kernel.metadata.name,
        "num_warps": build.num_warps,
        "constants": build.constants,
        "arguments": build.runtime_arguments(),
        "triton": triton.__version__,
        **dataclasses.asdict(used),
    }
    Path(f"{stem}.cubin").write_bytes(kernel.asm["cubin"])
    Path(f"{stem}.ptx").write_text(kernel.asm["ptx"])
    Path(f"{stem}.json").write_text(json.dumps(description, indent=2) + "\n")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m diffvqa_kernels.aot", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--arch", default=",".join(ARCHITECTURES), help="comma-separated (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the cubin, PTX and JSON files")
    parser.add_argument("--dtype", default="bfloat16", choices=DTYPES, help="of inputs and outputs (%(default)s)")
    parser.add_argument("--layout", default=",".join(LAYOUTS), help="comma-separated (default: %(default)s)")
    parser.add_argument("--d-state", default=16, type=int, choices=(16, 32, 64), help="states a channel (%(default)s)")
    arguments = parser.parse_args(argv)
    architectures, layouts = arguments.arch.split(","), arguments.layout.split(",")
    for given, known in ((architectures, ARCHITECTURES), (layouts, LAYOUTS)):
        if unknown := set(given) - set(known):
            parser.error(f"unknown {', '.join(sorted(unknown))}: expected some of {', '.join(known)}")
    if tuning.INTERPRETED:
        parser.error("TRITON_INTERPRET=1 is set: the interpreter compiles nothing")

    arguments.out.mkdir(parents=True, exist_ok=True)
    print(f"{'kernel':32} {'layout':14} {'arch':7} {'registers':>9} {'shared B':>9} {'spilled B':>9}")
    spilled = False
    for layout in layouts:
        for build in builds(arguments.dtype, layout, arguments.d_state):
            for architecture in architectures:
                kernel = compile_for(build, architecture)
                used = usage(kernel)
                spilled |= used.spilled_bytes > 0
                write(build, architecture, kernel, used, arguments.out)
                numbers = f"{used.registers:9} {used.shared_bytes:9} {used.spilled_bytes:9}"
                print(f"{build.name:32} {layout:14} {architecture:7} {numbers}", flush=True)
    return int(spilled)


if __name__ == "__main__":
    # Triton 3.9 asks for the choice; these kernels are written for fused multiply-adds.
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    sys.exit(main())
