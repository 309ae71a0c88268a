"""`denoise` in Triton server's embedded form: z0 in, ẑ0 and the decoder's features out, after K steps."""

import time

import numpy as np

from diffvqa_rt.scoring import denoise
from diffvqa_rt.serving.python_backend import Responder, open_engine


class TritonPythonModel:
    def initialize(self, args):
        self._responder = Responder(args)
        settings = self._responder.settings
        self._steps = settings.manifest().config.sampler.steps
        # In this process: between two of them each of the K steps costs 2 ms of waking up (two Xeon cores).
        self._unet_controller = open_engine(settings, "unet_controller")

    def execute(self, requests):
        return self._responder.answer(requests, self._denoise)

    def _denoise(self, inputs, wanted):
        start = time.monotonic()
        outputs = {
            name: np.asarray(array) for name, array in denoise(self._unet_controller, inputs["z0"], self._steps).items()
        }
        outputs["z0_hat"] = outputs.pop("z_next")
        return {**outputs, "denoise_marks": np.array([start, time.monotonic()])}

    def finalize(self):
        del self._unet_controller
