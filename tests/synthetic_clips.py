"""Rows of a synthetic set's table."""

from diffvqa_rt.synthetic.clip_table import SyntheticClip


def clip_of(content: str, distortion: str, severity: int, group: str | None = None, **changes) -> SyntheticClip:
    file = f"scenes/{content}/{distortion}-{severity}.mp4"
    values = {
        "file": file,
        "content": content,
        "group": group or content,
        "kind": "photo",
        "scene": content,
        "split": "validation",
        "distortion": distortion,
        "severity": severity,
        "label_kind": "vmaf",
        "label": 50.0,
        "steps": [],
        "frame_count": 2,
        "frame_rate_hz": 25.0,
        "motion_levels": 1.0,
        "source": {},
        "seed": 0,
        "sha256": file,
        "bytes": 1,
        "versions": {},
    }
    return SyntheticClip(**values | changes)
