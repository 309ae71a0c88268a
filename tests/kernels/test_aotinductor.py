import pytest
import torch
from diffvqa_kernels import testing
from diffvqa_kernels.selective_scan import bidirectional_selective_scan


class Module(torch.nn.Module):
    def forward(self, *tensors):
        return bidirectional_selective_scan(*tensors) + 1


# Inductor compiles C++: half a minute.
@pytest.mark.slow
def test_the_operator_runs_inside_a_package(tmp_path):
    inputs = testing.bidirectional_inputs(2, 6, 3, 5)
    batch, length = torch.export.Dim("batch", max=64), torch.export.Dim("length", max=8192)
    grouped, weight = {0: batch, 3: length}, {}
    shapes = (grouped, grouped, weight, grouped, grouped, weight, {0: batch, 2: length}, weight)
    program = torch.export.export(Module(), inputs, dynamic_shapes=(shapes,))
    package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "scan.pt2"))
    loaded = torch._inductor.aoti_load_package(package)
    other = testing.bidirectional_inputs(3, 6, 3, 11)
    torch.testing.assert_close(loaded(*other), Module()(*other))
