"""TensorRT and TensorRT for RTX: one API in two modules, imported here and nowhere else.

Neither is imported before `load_library`, so this module's names are at hand without either.
"""

import functools
import importlib
import logging
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

logger = logging.getLogger(__name__)

TensorRTName = Literal["tensorrt", "tensorrt-rtx"]
MODULES: dict[TensorRTName, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRecord:
    """A build's facts of a plan: `device`, `settings` and `scan` are the fields of that name in the manifest.

    Attributes:
        architectures: the GPUs that it runs on, as `sm_89`.
        is_stripped: whether it came without weights; they are then in the ONNX file beside it, of the same name.
        is_version_compatible: whether later versions of the runtime open it too.
        scan: how the selective scan is in there: "plugin", or ONNX's "Scan"; empty where the network has none.
    """

    architectures: tuple[str, ...]
    is_stripped: bool
    is_version_compatible: bool
    scan: str

    @property
    def device(self) -> str:
        return ", ".join(self.architectures)

    @property
    def settings(self) -> dict[str, str]:
        return {
            "STRIP_PLAN": "on" if self.is_stripped else "off",
            "VERSION_COMPATIBLE": "on" if self.is_version_compatible else "off",
        }


class Library:
    """One of the two modules as `trt`, and the logger that all its objects share."""

    def __init__(self, runtime: TensorRTName) -> None:
        self.runtime = runtime
        self.trt: Any = importlib.import_module(MODULES[runtime])
        self._errors: deque[str] = deque(maxlen=16)
        self.log = self._log()

    @property
    def is_rtx(self) -> bool:
        return self.runtime == "tensorrt-rtx"

    @property
    def label(self) -> str:
        """As in a manifest: `tensorrt-rtx 1.7.1.116`."""
        return f"{self.runtime} {self.trt.__version__}"

    def clear_errors(self) -> None:
        """To be called before what may fail: TensorRT also logs errors that it gets over."""
        self._errors.clear()

    def first_error(self) -> str:
        """The first error since `clear_errors`, on one line: the later ones are its consequences."""
        return " ".join(self._errors[0].split()) if self._errors else "no reason given"

    def _log(self) -> Any:
        trt, errors, runtime = self.trt, self._errors, self.runtime
        serious = (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR)

        class Log(trt.ILogger):  # type: ignore[name-defined]  # a class of whichever module it is
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                # An error becomes the caller's exception; the warnings are about TensorRT's own optimiser.
                if severity in serious:
                    errors.append(message)
                logger.debug("%s: %s", runtime, message)

        return Log()


@functools.cache
def load_library(runtime: TensorRTName) -> Library:
    """The runtime's module, imported once: TensorRT keeps one logger for a process.

    Raises ModuleNotFoundError where it is not installed.
    """
    return Library(runtime)
