"""Rows of a synthetic set's table, and the settings of a small set."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from diffvqa_rt.synthetic.clip_table import SyntheticClip
from diffvqa_rt.synthetic.make import SyntheticConfig
from diffvqa_rt.synthetic.views import ViewsConfig


def small_config(out: Path, **changes) -> SyntheticConfig:
    """A set of clips as small as VMAF measures. Nothing in the pool of the tests is large enough for the last size."""
    small = SyntheticConfig(
        out=out,
        sizes=((216, 160), (160, 216), (800, 450)),
        frames=12,
        ladders=("h264", "part_blur", "freeze"),
        ladders_per_scene=1,
        validation_share=0.5,
        views=ViewsConfig(size=48, random_crops=2, texture_crops=1),
    )
    return replace(small, **changes)


def clip_of(
    scene: str, distortion: str, severity: int, labels: Sequence[float] = (50.0, 50.0), **changes
) -> SyntheticClip:
    """A clip of a scene whose content has the same name, and the labels of its sampled frames."""
    stem = f"scenes/{scene}/{distortion}-{severity}"
    values = {
        "file": f"{stem}.mp4",
        "views": f"{stem}.npy",
        "views_bytes": 1,
        "content": scene,
        "group": scene,
        "kind": "photo",
        "scene": scene,
        "split": "validation",
        "width": 64,
        "height": 64,
        "distortion": distortion,
        "severity": severity,
        "labels": {"vmaf_v1": sum(labels) / len(labels)},
        "frame_labels": {"vmaf_v1": list(labels)},
        "sampled_frames": list(range(len(labels))),
        "steps": [],
        "frame_count": len(labels),
        "frame_rate_hz": 25.0,
        "motion_levels": 1.0,
        "source": {},
        "seed": 0,
        "sha256": stem,
        "bytes": 1,
        "versions": {},
    }
    return SyntheticClip(**values | changes)
