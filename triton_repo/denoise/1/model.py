"""`denoise` in Triton server: z0 in; ẑ0 and the decoder's features out, or z before the last of the K steps.

In the production form each step is a request to `unet_controller`, and the last one is a step of the ensemble: its
features, 165 MB a video at full size, then stay on the GPU for `head`, and no Python process ever holds a tensor there.
"""

import time

import numpy as np

from diffvqa_rt.scoring import denoise
from diffvqa_rt.serving.python_backend import Responder, call_model, open_engine


class TritonPythonModel:
    def initialize(self, args):
        self._responder = Responder(args)
        settings = self._responder.settings
        self._steps = settings.manifest().config.sampler.steps
        if settings.form == "production":
            self._play = self._play_by_requests
        else:
            # In this process: between two of them each of the K steps costs 2 ms of waking up (two Xeon cores).
            self._unet_controller = open_engine(settings, "unet_controller")
            self._play = self._play_here

    def execute(self, requests):
        return self._responder.answer(requests, self._denoise)

    def _denoise(self, request):
        z0 = request.inputs["z0"]
        self._responder.check_rows(z0)
        marks = request.inputs.get("preprocess_marks")
        received = None if marks is None else float(marks[0])
        start = time.monotonic()
        outputs = self._play(z0, lambda: request.require_owner(received))
        return {**outputs, "denoise_marks": np.array([start, time.monotonic()])}

    def _play_here(self, z0, before_step):
        outputs = denoise(self._unet_controller, z0, self._steps, before_step)
        arrays = {name: np.asarray(array) for name, array in outputs.items()}
        return {**arrays, "z0_hat": arrays["z_next"]}

    def _play_by_requests(self, z0, before_step):
        z = z0  # step 0 makes its own z from z0 and the noise table
        for step in range(self._steps - 1):
            before_step()
            z = call_model("unet_controller", {"z": z, "z0": z0, "step": np.array([step])}, ["z_next"])["z_next"]
        return {"z": z, "last_step": np.array([self._steps - 1])}
