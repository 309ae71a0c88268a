"""`preprocess` in Triton server: an encoded video's bytes in, its views and the facts of its result out."""

import dataclasses
import json
import logging
import time

import numpy as np

from diffvqa_rt.metrics.diffvqa.views import normalize_views
from diffvqa_rt.scoring import model_facts
from diffvqa_rt.serving.decoding import Decoder
from diffvqa_rt.serving.python_backend import CalledModelError, Responder, UnavailableError, call_model
from diffvqa_rt.video.crops import scaling_warnings
from diffvqa_rt.video.plan import device_inputs

logger = logging.getLogger(__name__)

DEFAULTS = {"seed": 0, "crops": 1, "keep_interlaced": False}


class TritonPythonModel:
    def initialize(self, args):
        self._responder = Responder(args)
        settings = self._responder.settings
        manifest = settings.manifest()
        self._is_production = settings.form == "production"
        self._size = manifest.config.view_size
        # DALI's operators where its decoders make other videos' views: a score must not depend on the codec's luck.
        cutter = "dali" if self._is_production else "pillow"
        self._decoder = Decoder(manifest.config, settings.limits, settings.python, cutter)
        self._facts = as_json(dataclasses.asdict(model_facts(manifest, settings.backend, cutter)))

    def execute(self, requests):
        return self._responder.answer(requests, self._prepare)

    def _prepare(self, request):
        inputs, received = request.inputs, time.monotonic()
        if self._responder.is_stopped:
            raise UnavailableError("the server is stopping; ask again later, or another one")
        options = {name: inputs[name][0].item() if name in inputs else default for name, default in DEFAULTS.items()}
        video = inputs["video"].data
        prepared = self._prepare_on_device(video, options["seed"], options["crops"]) if self._is_production else None
        frames, decoded, decode_seconds = prepared or self._prepare_on_host(video, **options)
        return {
            "frames": frames,
            "timestamps_seconds": np.array(decoded.timestamps_seconds),
            "video_info": as_json(video_facts(decoded)),
            "model": self._facts,
            "preprocess_marks": np.array([received, received + decode_seconds, time.monotonic()]),
        }

    def _prepare_on_host(self, video, seed, crops, keep_interlaced):
        decoded = self._decoder.decode(video, seed, crops, keep_interlaced=keep_interlaced)
        # Pixels to other processes of ours, a quarter of the bytes; to engines that Triton server plays, their input.
        frames = normalize_views(decoded.views) if self._is_production else decoded.views
        return frames, decoded, decoded.decode_seconds

    def _prepare_on_device(self, video, seed, crops):
        """The same by the model `dali`, on its GPU; None where the video is for the host, or DALI fails at it.

        Interlaced video is for the host.
        """
        start = time.monotonic()
        plan = self._decoder.plan(video, crops)
        plan_seconds = time.monotonic() - start
        if plan is None:
            return None
        scaled = scaling_warnings(plan.info.width, plan.info.height, self._size)
        plan = dataclasses.replace(plan, warnings=plan.warnings + scaled)
        try:
            # One by one: a row has the whole video with it, and the memory between processes is small.
            frames = [
                call_model("dali", {name: array[None] for name, array in row.items()}, ["frames"])["frames"]
                for row in device_inputs(plan, self._size, seed, crops)
            ]
            return np.concatenate(frames), plan, plan_seconds
        except (UnavailableError, CalledModelError) as error:
            logger.warning("%s; decoding on the host", error)
            return None

    def finalize(self):
        self._decoder.close()


def video_facts(decoded):
    """What the tensor `video_info` says: the fields of `VideoInfo`, and what the decoder has warned of."""
    warnings = [dataclasses.asdict(warning) for warning in decoded.warnings]
    return {**dataclasses.asdict(decoded.info), "warnings": warnings}


def as_json(facts):
    """The bytes of a dictionary's JSON, [bytes] uint8."""
    return np.frombuffer(json.dumps(facts).encode(), np.uint8)
