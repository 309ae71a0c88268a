"""`denoise` in Triton server: z0 in, ẑ0 and the decoder's features out, after K calls of `unet_controller`."""

from pathlib import Path

import triton_python_backend_utils as pb_utils

from diffvqa_rt.scoring import StageClock, denoise
from diffvqa_rt.serving.python_backend import UnavailableError, answer_each, arrays_of, settings_from, tensor_of
from diffvqa_rt.serving.traffic import Traffic
from diffvqa_rt.specs import engine_specs


class ServedEngine:
    """An engine that another model of this server plays, behind the engine protocol."""

    max_videos = None

    def __init__(self, spec):
        self.spec = spec

    def __call__(self, inputs, outputs=None):
        names = list(outputs) if outputs is not None else [tensor.name for tensor in self.spec.outputs]
        tensors = [tensor_of(name, values) for name, values in inputs.items()]
        request = pb_utils.InferenceRequest(model_name=self.spec.name, requested_output_names=names, inputs=tensors)
        response = request.exec()
        if response.has_error():
            error = response.error()
            if error.code() == pb_utils.TritonError.INVALID_ARG:
                raise ValueError(error.message())
            raise UnavailableError(f"{self.spec.name} gave no answer: {error.message()}")
        return arrays_of(response.output_tensors())


class TritonPythonModel:
    def initialize(self, args):
        settings = settings_from(args)
        config = settings.manifest().config
        self._traffic = Traffic(Path(settings.traffic))
        self._steps = config.sampler.steps
        self._unet_controller = ServedEngine(engine_specs(config)["unet_controller"])

    def execute(self, requests):
        return answer_each(requests, self._denoise, self._traffic)

    def _denoise(self, inputs, wanted):
        clock = StageClock()
        with clock.measure("denoise"):
            outputs = dict(denoise(self._unet_controller, inputs["z0"], self._steps))
        return {**outputs, "z0_hat": outputs["z_next"], "seconds": clock.seconds["denoise"]}

    def finalize(self):
        del self._unet_controller
