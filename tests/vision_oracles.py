"""torchvision and timm as oracles, where they are installed. The project needs neither, and CI has neither."""

import sys
from types import ModuleType

import pytest
import torch

REASON = "no dependency of the project; an oracle where it is installed"

# As long as the process runs: with it go the operators.
_stand_ins: list[torch.library.Library] = []


def import_torchvision() -> ModuleType:
    """torchvision, or skips the test. Its wheels are for CUDA builds of torch and do not import beside the CPU's.

    What they lack there are two operators of theirs, which no classifier uses.
    """
    try:
        return pytest.importorskip("torchvision", reason=REASON)
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _stand_ins.append(library)
    return pytest.importorskip("torchvision", reason=REASON)


def import_timm() -> ModuleType:
    """timm, or skips the test. It imports torchvision."""
    import_torchvision()
    return pytest.importorskip("timm", reason=REASON)
