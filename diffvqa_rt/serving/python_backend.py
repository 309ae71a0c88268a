"""What the served models share behind Triton server's Python backend: unpack a request, work, pack the answer.

Importable only in the backend's own processes, which bring `triton_python_backend_utils` along.
"""

import ctypes
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from diffvqa_rt.engines import open_engines
from diffvqa_rt.errors import DiffVQAError, VideoDecodeError
from diffvqa_rt.scoring import StageClock
from diffvqa_rt.serving.settings import StageSettings
from diffvqa_rt.serving.traffic import Traffic

logger = logging.getLogger(__name__)

_TAKEN = b"used_dltensor"
_set_capsule_name = ctypes.pythonapi.PyCapsule_SetName
_set_capsule_name.argtypes = [ctypes.py_object, ctypes.c_char_p]

Arrays = Mapping[str, Any]
Work = Callable[[Arrays, frozenset[str]], Arrays]
"""What a model does for one request: its inputs, and the names of the outputs that are wanted → its outputs."""


class UnavailableError(DiffVQAError):
    """The server is stopping, or a model's process is gone; the same request may go well a moment later."""


def settings_from(args: Mapping[str, str]) -> StageSettings:
    """What the server was started with, from the arguments of a model's `initialize`."""
    parameters = json.loads(args["model_config"])["parameters"]
    return StageSettings.from_json(parameters["settings"]["string_value"])


def answer_each(requests: Sequence[Any], work: Work, traffic: Traffic) -> list[Any]:
    """One response a request: a request that cannot be met gets the sentence that says why, and no other notices."""
    with traffic.at_work():
        return [_answer(request, work) for request in requests]


def _answer(request: Any, work: Work) -> Any:
    inputs = arrays_of(request.inputs())
    wanted = frozenset(request.requested_output_names())
    status = pb_utils.TritonError
    try:
        outputs = work(inputs, wanted)
    except (VideoDecodeError, ValueError, TypeError) as error:
        return _refusal(error, status.INVALID_ARG)
    except UnavailableError as error:
        return _refusal(error, status.UNAVAILABLE)
    except Exception as error:  # ours or a runtime's; the server must answer all the same
        logger.exception("a request failed")
        return _refusal(error, status.INTERNAL)
    return pb_utils.InferenceResponse([tensor_of(name, values) for name, values in outputs.items() if name in wanted])


def _refusal(error: Exception, status: int) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error) or type(error).__name__, status))


# By way of DLPack and not `as_numpy` and `Tensor`: those of Triton server 2.51 were compiled for NumPy 1, and with
# NumPy 2 they take every array for copies of its first value, without a word.
def arrays_of(tensors: Sequence[Any]) -> dict[str, NDArray]:
    """The tensors' values by name, in memory of their own."""
    return {tensor.name(): np.array(np.from_dlpack(tensor)) for tensor in tensors}


def tensor_of(name: str, values: Any) -> Any:
    """A tensor from an array; [1] from a number, since Triton server knows no scalars."""
    capsule = np.require(np.atleast_1d(values), requirements=["C", "W"]).__dlpack__()
    tensor = pb_utils.Tensor.from_dlpack(name, capsule)
    # 2.51 marks it as taken by another name than DLPack's, and NumPy complains on stderr of every one.
    _set_capsule_name(capsule, _TAKEN)
    return tensor


class EngineModel:
    """A stage that is one engine: `vae_encoder`, `unet_controller` and `head` in Triton server are this class.

    Each process opens and verifies its own engine and no other.
    """

    def initialize(self, args: Mapping[str, str]) -> None:
        settings, self._name = settings_from(args), args["model_name"]
        settings.manifest()
        self._traffic = Traffic(Path(settings.traffic))
        folder = Path(settings.engines)
        _, engines = open_engines(folder, settings.backend, settings.threads, names=[self._name])
        self._engine = engines[self._name]
        self._max_videos = min(settings.limits.max_crops, self._engine.max_videos or settings.limits.max_crops)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        return answer_each(requests, self._play, self._traffic)

    def _play(self, inputs: Arrays, wanted: frozenset[str]) -> dict[str, Any]:
        spec = self._engine.spec
        # A scalar comes as [1].
        arrays = {
            tensor.name: inputs[tensor.name] if tensor.shape else inputs[tensor.name].reshape(())
            for tensor in spec.inputs
        }
        if (videos := len(arrays[spec.inputs[0].name])) > self._max_videos:
            raise ValueError(f"{self._name} takes at most {self._max_videos} rows at a time; got {videos}")
        clock = StageClock()
        with clock.measure(self._name):
            results = self._engine(arrays, [tensor.name for tensor in spec.outputs if tensor.name in wanted])
            outputs = {name: np.asarray(values) for name, values in results.items()}
        return {**outputs, "seconds": clock.seconds[self._name]}

    def finalize(self) -> None:
        del self._engine
