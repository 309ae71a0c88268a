"""Videos to learn from, out of a synthetic set: the ladders of a split, or some of them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffvqa_rt.errors import TrainingError
from diffvqa_rt.synthetic.clip_table import read_manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledVideo:
    """A video to learn from. `label` is on the network's score range, None where only the order in its ladder is known.

    `ladder` names the versions of one scene under one distortion, `severity` is its place among them, 0 the pristine.
    `content` is the source that it shares with its other versions, None where it is one of its own. `prompt` is the
    text that it was generated from, None where it was not, or the text is not known. `frame_labels` are those of the
    sampled frames, where they are known.
    """

    name: str
    path: Path
    label: float | None
    ladder: str | None = None
    severity: int = 0
    content: str | None = None
    prompt: str | None = None
    frame_labels: tuple[float, ...] | None = None


def videos_from_set(folder: Path, split: str) -> list[LabelledVideo]:
    """The ladders of a synthetic set's `train` or `validation` split, each with its scene's pristine clip at 0.

    Raises:
        SyntheticSetError, TrainingError: the manifest cannot be read, or has nothing in that split.
    """
    clips = [clip for clip in read_manifest(folder) if clip.split == split]
    pristine = {clip.scene: clip for clip in clips if clip.severity == 0}
    ladders = dict.fromkeys((clip.scene, clip.distortion) for clip in clips if clip.severity > 0)
    members = [
        (clip, scene, distortion)
        for scene, distortion in ladders
        for clip in [pristine[scene], *(c for c in clips if (c.scene, c.distortion) == (scene, distortion))]
    ]
    if not members:
        raise TrainingError(f"{folder} has no clips in its {split} split")
    return [
        LabelledVideo(
            name=clip.file,
            path=folder / clip.file,
            label=clip.label,
            ladder=f"{scene}/{distortion}",
            severity=clip.severity,
            content=clip.content,
            frame_labels=None if clip.label is None else tuple(clip.frame_labels[clip.label_kind]),
        )
        for clip, scene, distortion in members
    ]


def with_views(videos: Sequence[LabelledVideo]) -> list[LabelledVideo]:
    """The same of a synthetic set, each with the file of its views in the place of the clip's (`read_views`)."""
    return [replace(video, path=video.path.with_suffix(".npy")) for video in videos]


def some_ladders(videos: Sequence[LabelledVideo], per_scene: int) -> list[LabelledVideo]:
    """Keeps `per_scene` ladders of every scene, chosen by the hash of the ladder's name."""
    ladders = sorted({str(video.ladder) for video in videos}, key=lambda name: hashlib.sha256(name.encode()).digest())
    of_scene: dict[str, list[str]] = {}
    for ladder in ladders:
        of_scene.setdefault(ladder.rpartition("/")[0], []).append(ladder)
    wanted = {ladder for names in of_scene.values() for ladder in names[:per_scene]}
    return [video for video in videos if video.ladder in wanted]


def some_scenes(videos: Sequence[LabelledVideo], count: int) -> list[LabelledVideo]:
    """Keeps all videos of `count` scenes, chosen by the hash of the scene's name."""
    scenes = {str(video.ladder).rpartition("/")[0] for video in videos}
    wanted = sorted(scenes, key=lambda name: hashlib.sha256(name.encode()).digest())[:count]
    return [video for video in videos if str(video.ladder).rpartition("/")[0] in wanted]


def videos_digest(videos: Sequence[LabelledVideo]) -> str:
    """SHA-256 of what is learned from; a run goes on only where it is the same."""
    digest = hashlib.sha256()
    for video in videos:
        prompt = "" if video.prompt is None else f" {video.prompt}"
        line = f"{video.name} {video.label} {video.ladder} {video.severity}{prompt}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
