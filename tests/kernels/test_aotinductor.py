import json
import os
import subprocess
import sys

import pytest
import torch
from diffvqa_kernels import testing
from diffvqa_kernels.selective_scan import bidirectional_selective_scan, bidirectional_selective_scan_reference


class Module(torch.nn.Module):
    def forward(self, *tensors):
        return bidirectional_selective_scan(*tensors) + 1


def _exported(inputs):
    batch, length = torch.export.Dim("batch", max=64), torch.export.Dim("length", max=8192)
    grouped, weight = {0: batch, 3: length}, {}
    shapes = (grouped, grouped, weight, grouped, grouped, weight, {0: batch, 2: length}, weight)
    return torch.export.export(Module(), tuple(inputs), dynamic_shapes=(shapes,))


def _run(code, *arguments):
    # The tests of the kernels may have the interpreter on, and it can't be traced.
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Inductor compiles C++: half a minute.
@pytest.mark.slow
def test_the_operator_runs_inside_a_package(tmp_path):
    program = _exported(testing.bidirectional_inputs(2, 6, 3, 5))
    package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "scan.pt2"))
    loaded = torch._inductor.aoti_load_package(package)
    other = testing.bidirectional_inputs(3, 6, 3, 11)
    torch.testing.assert_close(loaded(*other), Module()(*other))


# Fake tensors are on a GPU that need not exist; the stub tells Triton for which one to compile.
_TRACE = """
import json, sys
import torch, triton
from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table
from torch._subclasses import FakeTensorMode
from triton.backends.compiler import GPUTarget

sys.path.insert(0, sys.argv[1])
import test_aotinductor as tests

class Driver:
    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

triton.runtime.driver.set_active(Driver())

def targets(program):
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]

def concrete(size):
    return size.meta["val"].node.hint if isinstance(size, torch.fx.Node) else size

def launch(node):
    kernel = kernel_side_table.get_kernel(node.kwargs["kernel_idx"])
    grids = [[concrete(size) for size in grid] for grid in node.kwargs["grid"]]
    tiles = [{**config.kwargs, "num_warps": config.num_warps} for config in kernel.configs]
    return [kernel.fn.__name__, grids, tiles, sorted(node.kwargs["tensors_to_clone"])]

inputs = tests.testing.bidirectional_inputs(3, 70, 16, 200)
with FakeTensorMode():
    fakes = tuple(torch.empty(t.shape, dtype=t.dtype, device="cuda") for t in inputs)
    program = tests._exported(fakes)
compiled = program.run_decompositions({}, decompose_custom_triton_ops=True)
wrapper = torch.ops.higher_order.triton_kernel_wrapper_functional
print(json.dumps({
    "exported": targets(program),
    "decomposed": targets(program.run_decompositions()),
    "compiled": targets(compiled),
    "launches": [launch(node) for node in compiled.graph.nodes if node.target is wrapper],
}))
"""


def test_a_compiler_gets_the_launches_and_an_exported_program_the_node():
    pytest.importorskip("triton")
    got = json.loads(_run(_TRACE, os.path.dirname(__file__)))
    node = "diffvqa.bidirectional_selective_scan.default"
    assert got["exported"].count(node) == got["decomposed"].count(node) == 1
    assert node not in got["compiled"]
    # 200 tokens are 4 chunks; 70 channels are 3 blocks of 32 or 2 of 64; 3 rows in 2 directions.
    tiles = [
        {"TILE": 4, "BLOCK_D": 32, "num_warps": 1},
        {"TILE": 2, "BLOCK_D": 32, "num_warps": 1},
        {"TILE": 4, "BLOCK_D": 64, "num_warps": 2},
    ]
    assert got["launches"] == [
        ["_chunk_states", [[4, 3, 6], [4, 3, 6], [4, 2, 6]], tiles, ["states_ptr", "step_sums_ptr"]],
        ["_carry_states", [[3, 16, 6]], [{"num_warps": 1}], ["carried_ptr"]],
        ["_chunk_outputs", [[4, 3, 3], [4, 3, 3], [4, 2, 3]], tiles, ["out_ptr", "partial_ptr"]],
    ]


_LOAD = """
import sys
import torch

loaded = torch._inductor.aoti_load_package(sys.argv[1])
torch.save(loaded(*torch.load(sys.argv[2])), sys.argv[3])
assert "diffvqa_kernels" not in sys.modules and not hasattr(torch.ops.diffvqa, "bidirectional_selective_scan")
"""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_package_for_the_gpu_carries_the_kernels(tmp_path):
    program = _exported(testing.bidirectional_inputs(2, 70, 16, 130, device="cuda"))
    package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "scan.pt2"))
    other = testing.bidirectional_inputs(3, 70, 16, 500, device="cuda")
    torch.save(tuple(other), tmp_path / "inputs.pt")
    _run(_LOAD, package, str(tmp_path / "inputs.pt"), str(tmp_path / "output.pt"))
    want = bidirectional_selective_scan_reference(*testing.in_float64(other)) + 1
    testing.assert_close(torch.load(tmp_path / "output.pt"), want, testing.FORWARD_TOLERANCE[torch.float32])
