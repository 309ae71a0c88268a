"""The clips of one scene of the synthetic set, as a task for a process of its own."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from diffvqa_rt.files import make_folder, sha256_of, write_whole
from diffvqa_rt.synthetic.clip_files import REFERENCE_CRF, STORAGE_CRF, read_clip, write_clip
from diffvqa_rt.synthetic.clip_table import SyntheticClip, clip_from_json, json_from_clip
from diffvqa_rt.synthetic.distortions import LADDERS, distort
from diffvqa_rt.synthetic.scenes import Scene, motion_of, render_scene
from diffvqa_rt.synthetic.set_lock import join_run
from diffvqa_rt.synthetic.views import ViewsConfig, cut_views, places_of, write_views
from diffvqa_rt.synthetic.vmaf import measure_vmaf
from diffvqa_rt.video import sample_frames

REFERENCE = "reference"
"""The name of the pristine clip where a distortion's would stand."""

LEAST_MOTION_LEVELS = 0.4
"""The least change from frame to frame at which a lost frame is seen; no temporal fault is made of calmer scenes."""

LABELS = ("vmaf_v1",)
"""The models that all clips are measured by, also those of whose distortion only the order counts."""

_ROWS = "clips.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneTask:
    """One scene, for a process of its own to make.

    `ladders` are in the order in which they are wanted, and `most_ladders` of them that the scene is able to show are
    made. Of clips whose files are not kept, the views are.
    """

    out: Path
    frames: int
    seed: int
    scene: Scene
    source: Path
    ladders: tuple[str, ...]
    most_ladders: int
    severities: dict[str, tuple[int, ...]] = field(hash=False)
    views: ViewsConfig
    keeps_files: bool
    versions: dict[str, str] = field(hash=False)

    @property
    def folder(self) -> Path:
        return self.out / "scenes" / self.scene.name

    @property
    def rows(self) -> Path:
        """The rows of the scene's clips, written when all else of it is there."""
        return self.folder / _ROWS


def prepare_process(parent: int, folder: Path) -> None:
    """An interrupt is the parent's to handle; and should it be killed, this process is not to live on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # SVT-AV1 logs each encoder's settings, in any other way of asking too.
    os.environ["SVT_LOG"] = "1"

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    join_run(folder)


def make_clips(task: SceneTask) -> list[SyntheticClip]:
    """The scene's clips: of an earlier run if they are whole and sound, else made; none where it cannot be made."""
    clips = finished_clips(task)
    if clips is not None and all(_is_sound(task, clip) for clip in clips):
        return clips
    shutil.rmtree(task.folder, ignore_errors=True)
    make_folder(task.folder)
    clips = list(_made(task))
    if not task.keeps_files:
        for clip in clips:
            (task.out / clip.file).unlink()
    text = "".join(json_from_clip(clip) + "\n" for clip in clips)
    write_whole(task.rows, lambda part: part.write_text(text, encoding="utf-8"))
    return clips


def finished_clips(task: SceneTask) -> list[SyntheticClip] | None:
    """The clips of a scene that was finished; None where it was not, or its rows are damaged."""
    try:
        lines = task.rows.read_text(encoding="utf-8").splitlines()
        return [clip_from_json(line) for line in lines]
    except (OSError, ValueError, TypeError):
        return None


def _is_sound(task: SceneTask, clip: SyntheticClip) -> bool:
    try:
        size = (task.out / clip.views).stat().st_size
        return size == clip.views_bytes and (not task.keeps_files or sha256_of(task.out / clip.file) == clip.sha256)
    except OSError:
        return False


def _made(task: SceneTask) -> Iterator[SyntheticClip]:
    scene = render_scene(task.scene, task.source, frames=task.frames, seed=task.seed)
    if scene is None:
        return
    reference, key = task.folder / f"{REFERENCE}.mp4", f"{task.seed}/{task.scene.name}"
    write_clip(reference, scene.frames, scene.frame_rate_hz, crf=REFERENCE_CRF)
    frames = read_clip(reference)
    motion = round(motion_of(frames), 3)
    maker = _ClipMaker(task, reference, scene.frame_rate_hz, {"motion_levels": motion, "source": scene.how})
    yield maker.describe(reference, REFERENCE, 0, [])
    able = [name for name in task.ladders if motion >= LEAST_MOTION_LEVELS or not LADDERS[name].needs_motion]
    for name in able[: task.most_ladders]:
        for severity in task.severities[name]:
            distorted = distort(frames, LADDERS[name], severity, key)
            path = task.folder / f"{name}-{severity}.mp4"
            crf = STORAGE_CRF if distorted.codec is None else distorted.crf
            write_clip(path, distorted.frames, scene.frame_rate_hz, codec=distorted.codec, crf=crf)
            yield maker.describe(path, name, severity, [dict(step) for step in distorted.steps])


class _ClipMaker:
    """Measures the clips of a scene and keeps their views."""

    def __init__(self, task: SceneTask, reference: Path, rate: Fraction, measured: dict[str, Any]) -> None:
        self._task, self._reference, self._rate, self._measured = task, reference, rate, measured
        sampled = sample_frames(reference, task.views.frames)
        self._places = places_of(sampled.frames, task.views, f"{task.seed}/views/{task.scene.name}")

    def describe(self, path: Path, distortion: str, severity: int, steps: list[dict[str, Any]]) -> SyntheticClip:
        """The row of a clip that is there now, whose views are kept beside it."""
        task, item = self._task, self._task.scene.item
        sampled = sample_frames(path, task.views.frames)
        views = path.with_suffix(".npy")
        write_whole(views, lambda part: write_views(part, cut_views(sampled.frames, task.views, self._places)))
        by_frame = measure_vmaf(path, self._reference, LABELS)
        at = [round(float(seconds * self._rate)) for seconds in sampled.timestamps_seconds]
        return SyntheticClip(
            file=path.relative_to(task.out).as_posix(),
            views=views.relative_to(task.out).as_posix(),
            views_bytes=views.stat().st_size,
            content=item.content,
            group=item.group,
            kind=item.kind,
            scene=task.scene.name,
            split=task.scene.split,
            width=task.scene.size[0],
            height=task.scene.size[1],
            distortion=distortion,
            severity=severity,
            labels={model: round(float(values.mean()), 3) for model, values in by_frame.items()},
            frame_labels={model: [round(float(values[i]), 2) for i in at] for model, values in by_frame.items()},
            sampled_frames=at,
            steps=steps,
            frame_count=task.frames,
            frame_rate_hz=float(self._rate),
            seed=task.seed,
            sha256=sha256_of(path),
            bytes=path.stat().st_size,
            versions=task.versions,
            **self._measured,
        )
