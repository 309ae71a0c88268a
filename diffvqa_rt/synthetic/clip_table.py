"""The manifest of a synthetic distortion set: a CSV with one row for each clip, lists and tables as JSON in cells."""

import csv
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

from diffvqa_rt.errors import SyntheticSetError
from diffvqa_rt.files import write_whole
from diffvqa_rt.synthetic.distortions import LADDERS, LabelKind

MANIFEST = "manifest.csv"

_JSON_FIELDS = ("labels", "frame_labels", "sampled_frames", "source", "steps", "versions")
_WHOLE_FIELDS = ("views_bytes", "width", "height", "severity", "frame_count", "seed", "bytes")


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticClip:
    """One clip of the set.

    `file` and `views` are relative to the set's folder; of a split whose files are not kept, only the views are there.
    `scene` is the pristine clip it was made from, `content` the photograph or video behind it, and `group` the contents
    that show the same thing and share a `split`. `distortion` names the ladder, `reference` for a pristine clip, that
    is at severity 0 of all of them; severity 5 is the worst. `labels` has the mean over the frames by each model that
    measured it, 0 to 100, higher is better, and `frame_labels` their values for the `sampled_frames`. `steps` are the
    effects and the codec with their parameters, in order; `source` says what of the content the scene shows;
    `motion_levels` is the reference's change from frame to frame in grey levels.
    """

    file: str
    views: str
    views_bytes: int
    content: str
    group: str
    kind: Literal["photo", "video"]
    scene: str
    split: Literal["train", "validation"]
    width: int
    height: int
    distortion: str
    severity: int
    labels: dict[str, float]
    frame_labels: dict[str, list[float]]
    sampled_frames: list[int]
    steps: list[dict[str, Any]]
    frame_count: int
    frame_rate_hz: float
    motion_levels: float
    source: dict[str, Any]
    seed: int
    sha256: str
    bytes: int
    versions: dict[str, str]

    @property
    def label_kind(self) -> LabelKind:
        """The number that labels its type of distortion; a pristine clip's is that of its ladder."""
        return LADDERS[self.distortion].label if self.severity else "vmaf_v1"

    @property
    def label(self) -> float | None:
        """The mean over the frames, 0 to 100; None where only the order of severities is known."""
        return self.labels.get(self.label_kind)


def clip_from_json(line: str) -> SyntheticClip:
    """Raises ValueError or TypeError where the line is not one of `json_from_clip`."""
    return SyntheticClip(**json.loads(line))


def json_from_clip(clip: SyntheticClip) -> str:
    return json.dumps(asdict(clip), ensure_ascii=False, separators=(",", ":"))


def write_manifest(folder: Path, clips: Iterable[SyntheticClip]) -> Path:
    """The path of the manifest, which has a row for each clip. Raises FileWriteError where it cannot be written."""
    path = folder / MANIFEST
    write_whole(path, partial(_write_rows, clips=clips))
    return path


def _write_rows(path: Path, clips: Iterable[SyntheticClip]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in fields(SyntheticClip))
        for clip in clips:
            cells = asdict(clip)
            cells |= {name: json.dumps(cells[name], ensure_ascii=False) for name in _JSON_FIELDS}
            writer.writerow(cells.values())


def read_manifest(folder: Path) -> list[SyntheticClip]:
    """The clips of a set, pristine ones first within each scene.

    Raises:
        SyntheticSetError: the manifest is missing, or a line of it is malformed.
    """
    path = folder / MANIFEST
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return [_clip_from_cells(cells, f"{path}, line {number}") for number, cells in _numbered(file)]
    except OSError as error:
        raise SyntheticSetError(f"{path} cannot be read ({error.strerror}); make the set first") from error


def check_files(folder: Path, clips: Iterable[SyntheticClip]) -> None:
    """Raises SyntheticSetError where a set has kept the views of its training clips alone, and there are some here."""
    train = [folder / clip.file for clip in clips if clip.split == "train"]
    if train and not any(path.exists() for path in train):
        raise SyntheticSetError(
            f"{folder} has the views of its training clips, and not their files; make one with --keep-training-files"
        )


def _numbered(file: Iterable[str]) -> Iterable[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(file)
    for cells in reader:
        yield reader.line_num, cells


def _clip_from_cells(cells: dict[str, str], place: str) -> SyntheticClip:
    try:
        values: dict[str, Any] = dict(cells)
        values |= {name: json.loads(cells[name]) for name in _JSON_FIELDS}
        values |= {name: int(cells[name]) for name in _WHOLE_FIELDS}
        values |= {name: float(cells[name]) for name in ("frame_rate_hz", "motion_levels")}
        return SyntheticClip(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise SyntheticSetError(f"{place} is malformed ({error}); make the set again") from error
