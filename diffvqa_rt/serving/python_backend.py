"""Parts that the served models share behind Triton server's Python backend: unpack a request, work, pack the answer.

Importable only in the backend's own processes, which bring `triton_python_backend_utils` along.
"""

import ctypes
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from diffvqa_rt.engines import open_engines
from diffvqa_rt.errors import DiffVQAError, InputError, VideoDecodeError
from diffvqa_rt.serving.metrics import Failures
from diffvqa_rt.serving.settings import StageSettings
from diffvqa_rt.serving.tensor_checks import check_inputs, check_outputs
from diffvqa_rt.serving.traffic import Traffic
from diffvqa_rt.specs import Arrays, Engine, EngineSpec

logger = logging.getLogger(__name__)

_TAKEN = b"used_dltensor"
_set_capsule_name = ctypes.pythonapi.PyCapsule_SetName
_set_capsule_name.argtypes = [ctypes.py_object, ctypes.c_char_p]


class AbandonedError(DiffVQAError):
    """Nobody waits for the answer any more: the client is gone, or its time is over."""


class UnavailableError(DiffVQAError):
    """The server is stopping, or a model is gone; the same request may go well a moment later."""


class CalledModelError(DiffVQAError):
    """A model that another one has called failed."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request to a model.

    Attributes:
        inputs: its tensors by name.
        wanted: the names of the outputs that it asks for.
        timeout_seconds: how long its client waits for the answer, from when the server has the request; None if it
            does not say.
        handle: the request as Triton server's Python backend has it.
    """

    inputs: Arrays
    wanted: frozenset[str]
    timeout_seconds: float | None
    handle: Any

    def require_owner(self, received: float | None = None) -> None:
        """Raises AbandonedError where nobody waits for the answer any more.

        Args:
            received: when the server got the request, on the system's monotonic clock, where that is known. The step
                of an ensemble learns that its client is gone when it is scheduled and not later (Triton server 2.51);
                the end of the client's time it knows by this.
        """
        is_late = (
            received is not None
            and self.timeout_seconds is not None
            and time.monotonic() > received + self.timeout_seconds
        )
        if is_late or self.handle.is_cancelled():
            raise AbandonedError("nobody waits for the answer any more")


Work = Callable[[Request], Arrays]
"""A model's answer to one request: its outputs by name, those that are not wanted too if it likes."""


class Responder:
    """Answers a model's requests one by one: one that cannot be met gets the sentence that says why.

    One that nobody waits for any more is not worked on. An `InputError` and a `VideoDecodeError` are the request's
    fault. Every exception that nobody foresaw is a fault of the server, and is counted as one.

    Attributes:
        settings: what the server was started with.
        parameters: what the model is told beside that (`ServedModel.parameters`).
        is_stopped: whether new videos are to be refused.
    """

    def __init__(self, args: Mapping[str, str]) -> None:
        """`args`: of the model's `initialize`."""
        config = json.loads(args["model_config"])
        self.parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        self.settings = StageSettings.from_json(self.parameters["settings"])
        self._required = [tensor["name"] for tensor in config["input"] if not tensor.get("optional")]
        # Where Triton server plays the engines, a network's own NaN comes as an input, and `finish` tells of it.
        self._checks_values = self.settings.form == "embedded"
        self._model = args["model_name"]
        self._traffic = Traffic(Path(self.settings.traffic))
        self._failures = Failures(args["model_instance_name"])

    @property
    def is_stopped(self) -> bool:
        return self._traffic.is_stopped

    def check_rows(self, arrays: Arrays) -> None:
        """Raises InputError unless all arrays have the same number of rows, and no more than the engines take."""
        rows = {len(array) for array in arrays.values()}
        if len(rows) > 1:
            raise InputError(f"all tensors have a row per crop; got {', '.join(map(str, sorted(rows)))} rows")
        if not 1 <= min(rows) <= self.settings.max_rows:
            raise InputError(f"1 to {self.settings.max_rows} rows at a time; got {min(rows)}")

    def wait_until_free(self, model: str) -> None:
        """Returns when another model is not at work.

        A step of an ensemble that waits for its model does not learn that its client is gone (Triton server 2.51). So
        a stage before one that takes long keeps what it has until that is free, and only then the step is scheduled.
        """
        self._traffic.wait_until_free(model)

    def answer(self, requests: Sequence[Any], work: Work) -> list[Any]:
        with self._traffic.at_work(), self._traffic.occupying(self._model):
            return [self._answer(request, work) for request in requests]

    def _answer(self, request: Any, work: Work) -> Any:
        wanted = frozenset(request.requested_output_names())
        status = pb_utils.TritonError
        try:
            timeout_seconds = request.timeout() / 1e6 or None
            if request.is_cancelled():
                raise AbandonedError("nobody waits for the answer any more")
            inputs = arrays_of(request.inputs())
            check_inputs(inputs, self._required, are_finite=self._checks_values)
            outputs = work(Request(inputs, wanted, timeout_seconds, request))
            if self._checks_values:
                check_outputs(outputs, inputs)
        except AbandonedError as error:
            self._failures.count("cancelled")
            return _refusal(error, status.CANCELLED)
        except (VideoDecodeError, InputError) as error:
            self._failures.count("refused")
            return _refusal(error, status.INVALID_ARG)
        except UnavailableError as error:
            self._failures.count("unavailable")
            return _refusal(error, status.UNAVAILABLE)
        except CalledModelError as error:  # which Triton server has counted
            return _refusal(error, status.INTERNAL)
        except Exception as error:  # ours or a runtime's; the server must answer all the same
            logger.exception("a request failed")
            self._failures.count("fault")
            return _refusal(error, status.INTERNAL)
        return pb_utils.InferenceResponse(
            [tensor_of(name, values) for name, values in outputs.items() if name in wanted]
        )


def _refusal(error: Exception, status: int) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error) or type(error).__name__, status))


# By way of DLPack and not `as_numpy` and `Tensor`: those of Triton server 2.51 were compiled for NumPy 1, and with
# NumPy 2 they take every array for copies of its first value, without a word.
def arrays_of(tensors: Sequence[Any]) -> dict[str, NDArray]:
    """The tensors' values by name, in memory of their own."""
    return {tensor.name(): np.array(np.from_dlpack(tensor)) for tensor in tensors}


def tensor_of(name: str, values: Any) -> Any:
    """A tensor from an array."""
    capsule = np.require(values, requirements=["C", "W"]).__dlpack__()
    tensor = pb_utils.Tensor.from_dlpack(name, capsule)
    # 2.51 marks it as taken by another name than DLPack's, and NumPy complains on stderr of every one.
    _set_capsule_name(capsule, _TAKEN)
    return tensor


def call_model(name: str, inputs: Arrays, outputs: Sequence[str]) -> dict[str, NDArray]:
    """Calls another model of this server. Returns its outputs, in the host's memory.

    Raises:
        InputError: it says that the inputs are at fault.
        UnavailableError: it is not there.
        CalledModelError: it failed.
    """
    request = pb_utils.InferenceRequest(
        model_name=name,
        requested_output_names=list(outputs),
        inputs=[tensor_of(tensor, values) for tensor, values in inputs.items()],
        # Tensors on a GPU, which Triton server would lend to this process, come back empty once its pool for that is
        # used up (triton-inference-server/server#8177).
        preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
    )
    response = request.exec()
    if response.has_error():
        error = response.error()
        if error.code() == pb_utils.TritonError.INVALID_ARG:
            raise InputError(error.message())
        sentence = f"{name} gave no answer: {error.message()}"
        is_away = error.code() == pb_utils.TritonError.UNAVAILABLE
        raise UnavailableError(sentence) if is_away else CalledModelError(sentence)
    return arrays_of(response.output_tensors())


def open_engine(settings: StageSettings, name: str) -> Engine:
    """One engine of the server's folder, verified; nothing else of it is opened.

    Raises EngineMismatchError where it is not as it was when the server started.
    """
    settings.manifest()
    _, engines = open_engines(Path(settings.engines), settings.backend, settings.threads, names=[name])
    return engines[name]


def stage_named(responder: Responder) -> Any:
    """The `Call` or `Loop` that a model plays, of the chains of its metric."""
    manifest = responder.settings.manifest()
    items = (item for chain in manifest.metric.chains(manifest.config).values() for item in chain)
    return next(item for item in items if item.stage == responder.parameters["stage"])


class CalledEngine:
    """An engine that Triton server plays, behind the engine protocol: each run is a request to its model."""

    max_videos = None  # no request has more rows than the engines take

    def __init__(self, model: str, spec: EngineSpec) -> None:
        self.spec = spec
        self._model = model

    def __call__(self, inputs: Arrays, outputs: Sequence[str] | None = None) -> dict[str, NDArray]:
        names = [spec.name for spec in self.spec.outputs] if outputs is None else outputs
        return call_model(self._model, inputs, names)
