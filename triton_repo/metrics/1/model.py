"""`metrics` in Triton server, the last step: what each stage took, for the result and for Prometheus."""

import time

import numpy as np

from diffvqa_rt.errors import InputError
from diffvqa_rt.results import STAGES
from diffvqa_rt.serving.metrics import ScoreMetrics
from diffvqa_rt.serving.python_backend import Responder


class TritonPythonModel:
    def initialize(self, args):
        self._responder = Responder(args)
        self._metrics = ScoreMetrics(self._responder.settings.manifest().config.score_range)

    def execute(self, requests):
        return self._responder.answer(requests, self._observe)

    def _observe(self, request):
        inputs = request.inputs
        received, decoded, prepared = inputs["preprocess_marks"].tolist()
        started, denoised = inputs["denoise_marks"].tolist()
        # `vae_encoder` and `head` are what lies between, whoever plays them; all processes have the system's clock.
        seconds = [decoded - received, prepared - decoded, started - prepared, denoised - started]
        stage_seconds = np.array([*seconds, time.monotonic() - denoised])
        if not (stage_seconds >= 0).all():
            raise InputError(f"preprocess_marks and denoise_marks say that the stages took {stage_seconds} s")
        score = inputs["head_score"]
        if not np.isfinite(score).all():
            raise ArithmeticError(f"the network's score is {score}; check the engines with diffvqa info")
        self._metrics.observe(dict(zip(STAGES, stage_seconds.tolist(), strict=True)), float(score.mean()))
        return {"score": score, "stage_seconds": stage_seconds}
