"""The first step in Triton server: an encoded video in, what the engines take and the facts of its result out."""

import dataclasses
import json
import logging
import time

import numpy as np

from diffvqa_rt.metric import Request
from diffvqa_rt.scoring import model_facts
from diffvqa_rt.serving.decoding import Decoder
from diffvqa_rt.serving.models import request_options, served_stages
from diffvqa_rt.serving.python_backend import CalledModelError, Responder, UnavailableError, call_model

logger = logging.getLogger(__name__)


class TritonPythonModel:
    def initialize(self, args):
        self._responder = Responder(args)
        settings = self._responder.settings
        manifest = settings.manifest()
        self._metric, self._config = manifest.metric, manifest.config
        self._options = request_options(self._metric)
        self._is_production = settings.form == "production"
        self._dali = self._responder.parameters.get("dali")
        # DALI where its decoders make other videos' input: a score must not depend on the codec's luck.
        self._resized_by = "dali" if self._dali else "pillow"
        self._decoder = Decoder(
            self._metric, self._config, settings.limits, settings.python, max_rows=settings.max_rows
        )
        facts = dataclasses.asdict(model_facts(manifest, settings.backend, self._resized_by))
        self._facts = as_json({**facts, "stages": served_stages(self._metric.chain(self._config))})
        self._scales = pixel_scales(self._metric, self._config) if self._is_production else {}

    def execute(self, requests):
        return self._responder.answer(requests, self._prepare)

    def _prepare(self, request):
        inputs, received = request.inputs, time.monotonic()
        if self._responder.is_stopped:
            raise UnavailableError("the server is stopping; ask again later, or another one")
        asked = {spec.name: inputs[spec.name][0].item() for spec in self._options if spec.name in inputs}
        asked = Request(**asked, resized_by=self._resized_by)
        video = inputs["video"].data
        prepared = self._prepare_on_device(video, asked) if self._dali else None
        arrays, decoded, regions, decode_seconds = prepared or self._prepare_on_host(video, asked)
        return {
            **arrays,
            "timestamps_seconds": np.array(decoded.timestamps_seconds),
            "video_info": as_json(video_facts(decoded) | {"crop_regions": regions}),
            "model": self._facts,
            "preprocess_marks": np.array([received, received + decode_seconds, time.monotonic()]),
        }

    def _prepare_on_host(self, video, asked):
        decoded = self._decoder.decode(video, asked)
        # Pixels to other processes of ours, a quarter of the bytes; to engines that Triton server plays, their input.
        arrays = {
            name: self._scales[name].normalize(array) if name in self._scales else array
            for name, array in decoded.arrays.items()
        }
        return arrays, decoded, decoded.crop_regions, decoded.decode_seconds

    def _prepare_on_device(self, video, asked):
        """The same by the model `dali`, on its GPU; None where the video is for the host, or DALI fails at it.

        Interlaced video is for the host.
        """
        start = time.monotonic()
        plan = self._decoder.plan(video, asked)
        plan_seconds = time.monotonic() - start
        if plan is None:
            return None
        asked = self._metric.settle(self._config, asked, len(plan.timestamps_seconds))
        regions = self._metric.crop_regions(self._config, plan.info, asked)
        plan = dataclasses.replace(plan, warnings=plan.warnings + self._metric.warnings(self._config, plan.info))
        names = [spec.name for spec in self._metric.inputs(self._config)]
        try:
            # One by one: a row has the whole video with it, and the memory between processes is small.
            rows = [
                call_model(self._dali, {name: array[None] for name, array in row.items()}, names)
                for row in self._metric.on_device.rows(self._config, plan, asked)
            ]
            arrays = {name: np.concatenate([row[name] for row in rows]) for name in names}
            return arrays, plan, regions, plan_seconds
        except (UnavailableError, CalledModelError) as error:
            logger.warning("%s; decoding on the host", error)
            return None

    def finalize(self):
        self._decoder.close()


def pixel_scales(metric, config):
    """The scale of each input that is made of pixels; those who read it agree on it."""
    engines = metric.engines(config).values()
    return {name: scale for engine in engines for name, scale in engine.pixels.items()}


def video_facts(decoded):
    """The content of the tensor `video_info`: the fields of `VideoInfo`, and what the decoder has warned of."""
    warnings = [dataclasses.asdict(warning) for warning in decoded.warnings]
    return {**dataclasses.asdict(decoded.info), "warnings": warnings}


def as_json(facts):
    """The bytes of a dictionary's JSON, [bytes] uint8."""
    return np.frombuffer(json.dumps(facts).encode(), np.uint8)
