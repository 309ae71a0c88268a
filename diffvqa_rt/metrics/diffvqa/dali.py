"""The two views of SPEC §1 by DALI: one graph, behind PyAV on the CPU or behind NVDEC on a GPU.

    views = DaliViews(size=384)(sample_frames("clip.mp4", count=8).frames)

    pixels of frames ─────────────────────────────┐
    (PyAV: sampled, converted, upright)           ├─→ resized whole, region cut → interleaved (→ [-1, 1])
    encoded bytes → decode → colours → upright ───┘
    (numbers, matrix, orientation: `plan_decoding`)

A row of the batch is one crop of one frame behind PyAV, of one video behind DALI's decoders. PyAV's frames come from
`sample_frames`: times, rotation, bit depth and colours are right by the same code as without DALI. DALI's decoders are
told by `plan_decoding` what they do not know, and it refuses what cannot be put right.
"""

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from nvidia.dali import Pipeline, fn, types
from nvidia.dali.data_node import DataNode

from diffvqa_rt.errors import DeviceDecodeError
from diffvqa_rt.metrics.diffvqa.device import device_inputs, region_input
from diffvqa_rt.metrics.diffvqa.engines import PIXELS
from diffvqa_rt.metrics.diffvqa.views import check_numbers
from diffvqa_rt.video.crops import RgbFrame, check_frames, crop_places, crop_region, crop_regions
from diffvqa_rt.video.plan import DecodingPlan

# The same float32 as `PIXELS.normalize` gives; DALI's own normalisation is a unit in the last place off.
_SCALE = (np.arange(256, dtype=np.float32) / np.float32(127.5) - np.float32(1)).tolist()

Decoder = Literal["pyav", "libavcodec", "nvdec"]
"""Whose frames the views are of: PyAV's, or those of DALI's own decoders on the CPU or a GPU."""

# Rows at a time, which are what DALI's threads share.
_BATCH = 8


def preprocess_pipeline(size: int, decoder: Decoder, *, threads: int, **options: Any) -> Pipeline:
    """The graph, not built. Its one output is [2F, 3, size, size], semantic and distortion views in turn.

    Behind PyAV they are pixels, uint8, for whoever hands them on; behind DALI's decoders float32 in [-1, 1].

    Inputs, one sample for a row:

    * `region` [4] float32: top, left, bottom, right of the distortion view in the upright frame, `crop_region`.
    * behind PyAV: `frames` [F, H, W, 3] uint8 RGB.
    * behind DALI's decoders: `video` [bytes] uint8; `frame_numbers` [F] int32; `rgb_matrix` [3, 3] float32;
      `orientation` [2] int32, degrees clockwise and whether to mirror left to right before: a `DecodingPlan`'s.

    Args:
        decoder: behind `nvdec` all work is done on the GPU; without one, the graph only serialises.
        threads: of the CPU.
        options: of `nvidia.dali.Pipeline`.
    """
    pipeline = Pipeline(batch_size=_BATCH, num_threads=threads, **options)
    with pipeline:
        region = fn.external_source(name="region", dtype=types.FLOAT, ndim=1)
        if decoder == "pyav":
            frames = fn.external_source(name="frames", dtype=types.UINT8, ndim=4, layout="FHWC", no_copy=True)
            pipeline.set_outputs(_views(frames, region, size))
        else:
            pixels = _views(_decoded(decoder), region, size)
            pipeline.set_outputs(fn.lookup_table(pixels, keys=list(range(256)), values=_SCALE, dtype=types.FLOAT))
    return pipeline


def _decoded(decoder: Decoder) -> DataNode:
    """The frames of an encoded video, [F, H, W, 3], in their declared colours and upright."""
    video = fn.external_source(name="video", dtype=types.UINT8, ndim=1)
    frame_numbers = fn.external_source(name="frame_numbers", dtype=types.INT32, ndim=1)
    rgb_matrix = fn.external_source(name="rgb_matrix", dtype=types.FLOAT, ndim=2)
    orientation = fn.external_source(name="orientation", dtype=types.INT32, ndim=1)
    stored = fn.decoders.video(video, frames=frame_numbers, device="mixed" if decoder == "nvdec" else "cpu")
    colored = fn.coord_transform(stored, M=rgb_matrix, dtype=types.UINT8)
    mirrored = fn.flip(colored, horizontal=orientation[1])
    # Counter-clockwise. Quarter turns of nearest pixels move them and change none.
    return fn.rotate(mirrored, angle=fn.cast(-orientation[0], dtype=types.FLOAT), interp_type=types.INTERP_NN)


def _views(frames: DataNode, region: DataNode, size: int) -> DataNode:
    whole = fn.resize(frames, size=[size, size], interp_type=types.INTERP_CUBIC, antialias=True)
    # A region of size x size pixels is copied, which the nearest pixel does at a fifth of the cost; a smaller one is
    # scaled up. The filters' codes are 0 (nearest) and 2 (cubic).
    is_scaled = (region[2] - region[0] != size) | (region[3] - region[1] != size)
    interpolation = fn.cast(is_scaled * int(types.INTERP_CUBIC), dtype=types.INTERP_TYPE)
    piece = fn.resize(
        frames, size=[size, size], roi_start=region[:2], roi_end=region[2:], interp_type=interpolation, antialias=True
    )
    interleaved = fn.reshape(fn.stack(whole, piece, axis=1), shape=[-1, size, size, 3], layout="FHWC")
    return fn.transpose(interleaved, perm=[0, 3, 1, 2])


def write_model(path: str | os.PathLike[str], size: int) -> None:
    """Writes the graph from encoded bytes on a GPU as the `model.dali` of Triton server's DALI backend.

    Not to be given a stranger's bytes unplanned: DALI opens local files that an `ffconcat` text names, under the
    server's working directory. Only what `device_inputs` makes may reach the model.

    Needs no GPU. The backend takes batches of up to the `max_batch_size` of its own configuration, on the GPU of the
    instance.
    """
    Path(path).write_bytes(preprocess_pipeline(size, "nvdec", threads=1).serialize())


class _Runner:
    """A pipeline that one thread at a time runs; rows together or apart give the same bits."""

    def __init__(self, make_pipeline: Callable[[], Pipeline]) -> None:
        self._make_pipeline = make_pipeline
        self._pipeline: Pipeline | None = None
        self._lock = threading.Lock()

    def run(self, rows: Sequence[dict[str, NDArray]], outputs: Sequence[NDArray]) -> None:
        """Fills one output for each row of inputs.

        Raises:
            RuntimeError: DALI failed; it may be run again.
        """
        with self._lock:
            if self._pipeline is None:
                self._pipeline = self._make_pipeline()
            pipeline, self._pipeline = self._pipeline, None
            for start in range(0, len(rows), _BATCH):
                batch = rows[start : start + _BATCH]
                for name in batch[0]:
                    pipeline.feed_input(name, [row[name] for row in batch])
                (views,) = pipeline.run()
                on_host = views.as_cpu()
                for index, output in enumerate(outputs[start : start + _BATCH]):
                    output[:] = on_host.at(index)
            # A pipeline that failed does not run again.
            self._pipeline = pipeline


def _make_runner(size: int, decoder: Decoder, threads: int | None) -> _Runner:
    return _Runner(
        lambda: preprocess_pipeline(
            size,
            decoder,
            threads=threads or len(os.sched_getaffinity(0)),
            device_id=0 if decoder == "nvdec" else None,
            # One batch after the other: nothing is computed ahead of what was asked for.
            exec_async=False,
            exec_pipelined=False,
            prefetch_queue_depth=1,
        )
    )


class DaliViews:
    """`make_views` by DALI's CPU operators.

    Crops at native resolution are `make_views`'s bit for bit. Where it resamples, DALI rounds once, at the end, and
    repeats the border pixels; Pillow rounds and clips between its two passes, and leaves out what lies beyond the
    border. That is a grey level of difference at most where nothing clips, more at borders and in noise.
    """

    def __init__(self, size: int, threads: int | None = None) -> None:
        """Views of `size` pixels, made by `threads` threads, which change no bit; by default, one for each CPU."""
        self.size = size
        self._runner = _make_runner(size, "pyav", threads)

    def __call__(self, frames: Sequence[RgbFrame], seed: int = 0, crops: int = 1) -> NDArray[np.float32]:
        """The views of a video's frames, [crops, 2N, 3, size, size] float32 in [-1, 1], laid out as by `make_views`.

        Raises:
            TypeError, ValueError: as `make_views`.
        """
        _, seed, crops = check_numbers(self.size, seed, crops)
        return PIXELS.normalize(self.cut(frames, crop_places(seed, crops)))

    def cut(self, frames: Sequence[RgbFrame], places: NDArray[np.float64]) -> NDArray[np.uint8]:
        """The views in pixels, as by `cut_views_at`."""
        check_frames(frames)
        views = np.empty((len(places), 2 * len(frames), 3, self.size, self.size), np.uint8)
        # A row for each frame: DALI's threads share rows, not the frames of one.
        clips = [np.ascontiguousarray(frame)[None] for frame in frames]
        rows: list[dict[str, NDArray]] = []
        outputs: list[NDArray[np.uint8]] = []
        for crop, place in enumerate(places):
            for index, clip in enumerate(clips):
                _, height, width, _ = clip.shape
                rows.append({"frames": clip, "region": region_input(crop_region(width, height, self.size, place))})
                outputs.append(views[crop, 2 * index : 2 * index + 2])
        self._runner.run(rows, outputs)
        return views


class EncodedViews:
    """The views of encoded videos by the graph that `write_model` writes: what tests and benchmarks hold it to."""

    def __init__(
        self, size: int, *, decoder: Literal["libavcodec", "nvdec"] = "nvdec", threads: int | None = None
    ) -> None:
        """Views of `size` pixels, made by `threads` CPU threads; by default, one for each CPU.

        With `libavcodec` the same graph plays without a GPU, for the codecs that DALI decodes so: VP8 and VP9.
        """
        self.size = size
        self._runner = _make_runner(size, decoder, threads)

    def __call__(self, plan: DecodingPlan, seed: int = 0, crops: int = 1) -> NDArray[np.float32]:
        """The views of a planned video, [crops, 2N, 3, size, size] float32 in [-1, 1]; each crop decodes it once.

        Raises:
            DeviceDecodeError: the video does not decode.
        """
        _, seed, crops = check_numbers(self.size, seed, crops)
        regions = crop_regions(plan.info.width, plan.info.height, self.size, crop_places(seed, crops))
        views = np.empty((crops, 2 * len(plan.frame_numbers), 3, self.size, self.size), np.float32)
        try:
            self._runner.run(device_inputs(plan, regions), list(views))
        except RuntimeError as error:
            raise DeviceDecodeError(
                "<bytes> does not decode by DALI, whose own words are this error's cause; decode it with PyAV"
            ) from error
        return views
