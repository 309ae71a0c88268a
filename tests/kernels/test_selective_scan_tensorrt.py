"""The TensorRT plugins, as far as they go without TensorRT: its bindings' decorators, and the PTX."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("triton")

# The bindings' library wants TensorRT's, which are on no registry: the functions that it misses, empty.
_MISSING = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL"),
    *("createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getNvOnnxParserVersion"),
    *("getBuilderPluginRegistry", "getPluginRegistry", "initLibNvInferPlugins"),
)
_CHECK = """
import sys
import tensorrt_bindings
sys.modules["tensorrt"] = tensorrt_bindings
import tensorrt_bindings.plugin as trtp
sys.modules["tensorrt.plugin"] = trtp
from diffvqa_kernels.selective_scan import tensorrt as plugins
plugins.register_plugins(lazy=True)
from tensorrt_bindings.plugin._lib import QDP_REGISTRY
for name, definition in QDP_REGISTRY.items():
    print(name, len(definition.input_tensor_names), definition.num_outputs)
"""

# Contiguous tensors of known shape in place of TensorRT's symbolic ones; the module needs only these names.
_STAND_IN = """
import sys, types
trt = types.ModuleType("tensorrt"); trtp = types.ModuleType("tensorrt.plugin")
trt.float32, trt.float16, trt.bfloat16, trt.plugin = "f32", "f16", "bf16", trtp
class Size(int):
    def __mul__(self, other): return Size(int(self) * int(other))
    def constant_value(self): return int(self)
class Tensor:
    def __init__(self, dtype, *shape): self.dtype, self.shape_expr = dtype, [Size(s) for s in shape]
class Exprs(list):
    from_tuple = classmethod(lambda cls, values: cls(values))
trtp.TensorDesc, trtp.SymIntExprs, trtp.SymInt32, trtp.KernelLaunchParams = Tensor, Exprs, int, types.SimpleNamespace
trtp.cdiv = lambda a, b: -(-a // b)
sys.modules |= {"tensorrt": trt, "tensorrt.plugin": trtp}
from diffvqa_kernels.selective_scan import tensorrt as plugins
u, A, D, z = Tensor("bf16", 2, 2, 40, 99), Tensor("f32", 2, 40, 16), Tensor("f32", 2, 40), Tensor("bf16", 2, 40, 99)
B, states, sums = Tensor("bf16", 2, 2, 16, 99), Tensor("f32", 2, 2, 2, 16, 40), Tensor("f32", 2, 2, 2, 40)
for implementation, tensors in (
    (plugins._chunk_states, (u, u, A, B, D)),
    (plugins._carry_states, (states, sums, A)),
    (plugins._chunk_outputs, (u, u, A, B, B, D, z, D, states)),
):
    name, ptx, launch, integers = implementation(*tensors, None, None)
    print("KERNEL", name, len(tensors), len(integers), launch.grid_x, launch.grid_y, launch.grid_z, launch.block_x)
    print(ptx)
"""


def _python(code, **environment):
    variables = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | environment
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=variables, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not importlib.util.find_spec("tensorrt_bindings"), reason="needs tensorrt-cu13-bindings")
@pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")
def test_the_bindings_accept_the_plugins(tmp_path):
    source = tmp_path / "stubs.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in _MISSING))
    for name in ("nvinfer", "nvonnxparser", "nvinfer_plugin"):
        soname = f"lib{name}.so.11"
        command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{soname}", "-o", str(tmp_path / soname), str(source)]
        subprocess.run(command, check=True)
    listed = _python(_CHECK, LD_LIBRARY_PATH=str(tmp_path))
    assert [line for line in listed.splitlines() if "[TRT]" not in line] == [
        "diffvqa::scan_chunk_states 5 2",
        "diffvqa::scan_carry_states 3 1",
        "diffvqa::scan_chunk_outputs 9 2",
    ]


def test_ptx_takes_inputs_integers_and_outputs_only():
    printed = _python(_STAND_IN).split("KERNEL ")[1:]
    outputs = {"_chunk_states": 2, "_carry_states": 1, "_chunk_outputs": 2}
    grids = {"_chunk_states": (2, 2, 4), "_carry_states": (2, 16, 4), "_chunk_outputs": (2, 2, 2)}
    assert len(printed) == 3
    for report in printed:
        header, ptx = report.split("\n", 1)
        name, *numbers = header.split()
        inputs, integers, *grid, threads = (int(number) for number in numbers)
        parameters = re.search(r"\.entry\s+\w+\((.*?)\)", ptx, re.DOTALL)[1].split(",")
        kinds = [".u64" in parameter for parameter in parameters]
        assert kinds == [True] * inputs + [False] * integers + [True] * outputs[name]
        assert tuple(grid) == grids[name]
        assert threads == 32
        assert ".target sm_80" in ptx
