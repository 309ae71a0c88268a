"""The clips of one ladder of one scene of the synthetic set, as a task for a process of its own."""

import os
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
from diffvqa_rt.synthetic.distortions import LADDERS, SEVERITIES, distort
from diffvqa_rt.synthetic.scenes import Scene, motion_of, render_scene
from diffvqa_rt.synthetic.vmaf import measure_vmaf

REFERENCE = "reference"
"""The name of the pristine clip where a distortion's would stand."""

_MODELS = {"vmaf": "vmaf_v0.6.1", "vmaf_neg": "vmaf_v0.6.1neg"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipTask:
    """One ladder of one scene, or its reference, for a process of its own to make."""

    out: Path
    size: tuple[int, int]
    frames: int
    seed: int
    scene: Scene
    source: Path
    ladder: str
    versions: dict[str, str] = field(hash=False)

    @property
    def folder(self) -> Path:
        return self.out / "scenes" / self.scene.name

    @property
    def rows(self) -> Path:
        return self.folder / f"{self.ladder}.jsonl"


def prepare_process(parent: int) -> None:
    """An interrupt is the parent's to handle; and should it be killed, this process is not to live on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # SVT-AV1 logs each encoder's settings, in any other way of asking too.
    os.environ["SVT_LOG"] = "1"

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def make_clips(task: ClipTask) -> list[SyntheticClip]:
    """The task's clips: those of an earlier run that are sound, and the rest made."""
    make_folder(task.folder)
    finished = {clip.severity: clip for clip in finished_clips(task) if _is_sound(task, clip)}
    wanted = (0,) if task.ladder == REFERENCE else SEVERITIES
    for clip in _missing_clips(task, [severity for severity in wanted if severity not in finished]):
        finished[clip.severity] = clip
        _write_rows(task, finished)
    return [finished[severity] for severity in sorted(finished)]


def _write_rows(task: ClipTask, finished: dict[int, SyntheticClip]) -> None:
    text = "".join(json_from_clip(finished[severity]) + "\n" for severity in sorted(finished))
    write_whole(task.rows, lambda part: part.write_text(text, encoding="utf-8"))


def finished_clips(task: ClipTask) -> Iterator[SyntheticClip]:
    """The task's clips that were written down so far, up to where a run was cut off."""
    try:
        lines = task.rows.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            yield clip_from_json(line)
        except (ValueError, TypeError):
            continue


def _is_sound(task: ClipTask, clip: SyntheticClip) -> bool:
    try:
        return sha256_of(task.out / clip.file) == clip.sha256
    except OSError:
        return False


def _missing_clips(task: ClipTask, severities: list[int]) -> Iterator[SyntheticClip]:
    if not severities:
        return
    reference = task.folder / f"{REFERENCE}.mp4"
    if task.ladder == REFERENCE:
        scene = render_scene(task.scene, task.source, size=task.size, frames=task.frames, seed=task.seed)
        if scene is None:
            return
        write_clip(reference, scene.frames, scene.frame_rate_hz, crf=REFERENCE_CRF)
        yield _describe(
            task,
            reference,
            severity=0,
            label_kind="vmaf",
            label=round(measure_vmaf(reference, reference), 3),
            steps=[],
            frame_rate_hz=float(scene.frame_rate_hz),
            motion_levels=round(motion_of(read_clip(reference)), 3),
            source=scene.how,
        )
        return
    pristine = clip_from_json((task.folder / f"{REFERENCE}.jsonl").read_text(encoding="utf-8"))
    frames, ladder = read_clip(reference), LADDERS[task.ladder]
    for severity in severities:
        distorted = distort(frames, ladder, severity, f"{task.seed}/{task.scene.name}")
        path = task.folder / f"{task.ladder}-{severity}.mp4"
        crf = STORAGE_CRF if distorted.codec is None else distorted.crf
        rate = Fraction(pristine.frame_rate_hz).limit_denominator(1001)
        write_clip(path, distorted.frames, rate, codec=distorted.codec, crf=crf)
        model = _MODELS.get(ladder.label)
        yield _describe(
            task,
            path,
            severity=severity,
            label_kind=ladder.label,
            label=None if model is None else round(measure_vmaf(path, reference, model), 3),
            steps=[dict(step) for step in distorted.steps],
            frame_rate_hz=pristine.frame_rate_hz,
            motion_levels=pristine.motion_levels,
            source=pristine.source,
        )


def _describe(task: ClipTask, path: Path, **measured: Any) -> SyntheticClip:
    item = task.scene.item
    return SyntheticClip(
        file=path.relative_to(task.out).as_posix(),
        content=item.content,
        group=item.group,
        kind=item.kind,
        scene=task.scene.name,
        split=task.scene.split,
        distortion=task.ladder,
        frame_count=task.frames,
        seed=task.seed,
        sha256=sha256_of(path),
        bytes=path.stat().st_size,
        versions=task.versions,
        **measured,
    )
