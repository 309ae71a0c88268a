"""Pairs of a distorted picture and its reference, which the restorer learns from (SPEC §2; D11, D13)."""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from diffvqa_rt.decoding import shared_decoder
from diffvqa_rt.errors import TrainingError, VideoDecodeError
from diffvqa_rt.evaluation.data_sets import DATA_SETS, read_table
from diffvqa_rt.evaluation.mos_table import read_csv
from diffvqa_rt.metrics.diffv2iqa.engines import PIXELS
from diffvqa_rt.synthetic.distortions import SEVERITIES, STILL_LADDERS, Ladder, distort
from diffvqa_rt.training.loop import Batch, StepBatches
from diffvqa_rt.training.media import find_media
from diffvqa_rt.video.crops import RgbFrame

logger = logging.getLogger(__name__)

_ATTEMPTS = 20
# A distortion reaches so far: the widest of the catalogue is the interpolation of a picture that was 6.5 times smaller.
_MARGIN = 32
# Of decoded pictures, which a small set is decoded once for.
_KEPT_BYTES = 2**29


@dataclass(frozen=True, slots=True)
class Pair:
    """A reference, and its distorted version; without a file of that, one is drawn from the catalogue each time."""

    reference: Path
    distorted: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.reference,) if self.distorted is None else (self.reference, self.distorted)


def read_pairs(table: Path) -> list[Pair]:
    """The pairs of a CSV file with the columns `reference,distorted`, and each reference with itself (D13).

    Paths are relative to the file's folder or absolute.

    Raises:
        MosTableError: the file cannot be read, or lacks a column.
        TrainingError: it has no rows, or a picture is not there.
    """
    pairs = []
    for row in read_csv(table, ["reference", "distorted"]):
        pair = Pair(*(table.parent / row.cells[column] for column in ("reference", "distorted")))
        for path in pair.files:
            if not path.is_file():
                raise TrainingError(f"{row.where}: the picture {path} is not there")
        pairs.append(pair)
    if not pairs:
        raise TrainingError(f"{table} has no rows; expected a reference and a distorted picture in each")
    return _with_references(pairs)


def read_data_set(name: str, source: Path) -> list[Pair]:
    """The pairs of a data set of distorted pictures (PIPAL is the paper's), and each reference with itself (D13).

    Raises:
        MosTableError: as `read_table`.
        TrainingError: the data set has no references, or one is not there.
    """
    pairs = [Pair(row.reference, row.video) for row in read_table(name, source).rows if row.reference is not None]
    if not pairs:
        raise TrainingError(f"{DATA_SETS[name].title} has no references; expected a data set of distorted pictures")
    for pair in pairs:
        if not pair.reference.is_file():
            raise TrainingError(f"the reference {pair.reference} is not there")
    return _with_references(pairs)


def _with_references(pairs: list[Pair]) -> list[Pair]:
    return pairs + [Pair(path, path) for path in dict.fromkeys(pair.reference for pair in pairs)]


def pairs_from(places: Sequence[Path]) -> list[Pair]:
    """The pairs of CSV tables and data sets, and pictures of folders and files as references without another version.

    Args:
        places: paths; NAME=PATH is a data set.

    Raises:
        MosTableError, TrainingError: as `read_pairs`, `read_data_set` and `find_media` do.
    """
    pairs, others = [], []
    for place in places:
        name, equals, source = str(place).partition("=")
        if equals and name in DATA_SETS:
            pairs += read_data_set(name, Path(source))
        elif place.suffix.lower() == ".csv":
            pairs += read_pairs(place)
        else:
            others.append(place)
    return pairs + [Pair(path) for path in (find_media(others) if others else [])]


class PairBatches(StepBatches):
    """Step s gives a share of `batch` crops: `x`, distorted, and `reference`, [batch / processes, 3, side, side].

    Both are in [−1, 1]. Pairs are drawn at random, `per_pair` crops of each at random places, every second one mirrored
    left to right. Where a pair has no distorted file, each crop gets a type and severity of `ladders`, or stays as it
    is (D13), all as likely. What cannot be decoded is named in the log, and another pair is drawn in its place.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        *,
        batch: int,
        per_pair: int,
        side: int,
        seed: int,
        processes: int = 1,
        ladders: Sequence[Ladder] = tuple(STILL_LADDERS.values()),
    ) -> None:
        super().__init__(seed, processes)
        if batch % per_pair:
            raise ValueError(f"batch is {batch}; expected a multiple of per_pair ({per_pair})")
        self.share_of(batch)
        self._pairs, self._batch, self._per_pair, self._side = list(pairs), batch, per_pair, side
        self._rungs = [(ladder, severity) for ladder in ladders for severity in SEVERITIES]
        self._refused: set[Pair] = set()
        self._decoded: OrderedDict[Path, RgbFrame] = OrderedDict()

    def __getitem__(self, step: int) -> Batch:
        share = self.share_of(self._batch)
        # Each pair's crops are drawn for themselves, so that no process has to know what another could not decode.
        first, last = share[0] // self._per_pair, share[-1] // self._per_pair
        drawn = np.concatenate([self._draw(self.generator(step, part)) for part in range(first, last + 1)])
        at = share[0] - first * self._per_pair
        both = torch.from_numpy(PIXELS.normalize(drawn[at : at + len(share)]))
        return {"x": both[:, 0], "reference": both[:, 1]}

    def _draw(self, generator: np.random.Generator) -> NDArray[np.uint8]:
        """The crops of one pair, [per_pair, 2, 3, side, side]."""
        for _ in range(_ATTEMPTS):
            pair = self._pairs[int(generator.integers(len(self._pairs)))]
            try:
                pictures = self._pictures(pair)
            except VideoDecodeError as error:
                if pair not in self._refused:
                    logger.warning("left out: %s", error)
                self._refused.add(pair)
                continue
            return np.stack([self._crop(pictures, generator) for _ in range(self._per_pair)])
        raise TrainingError(f"{_ATTEMPTS} pairs in a row cannot be used, the last of them that of {pair.reference}")

    def _pictures(self, pair: Pair) -> list[NDArray[np.uint8]]:
        """The pictures of a pair. Raises VideoDecodeError where one does not decode, or they are of two sizes."""
        pictures = [self._picture(path) for path in pair.files]
        if len({picture.shape for picture in pictures}) > 1:
            (height, width), (other_height, other_width) = (picture.shape[:2] for picture in pictures)
            raise VideoDecodeError(
                f"{pair.reference} is of {width}×{height} pixels and {pair.distorted} of {other_width}×{other_height}; "
                "expected the same size"
            )
        return pictures

    def _crop(self, pictures: Sequence[RgbFrame], generator: np.random.Generator) -> NDArray[np.uint8]:
        side = self._side
        height, width = pictures[0].shape[:2]
        top, left = (int(generator.integers(length - side + 1)) for length in (height, width))
        is_mirrored = bool(generator.integers(2))
        rung = int(generator.integers(len(self._rungs) + 1))
        key = str(generator.integers(2**63))
        if len(pictures) == 1:
            above, before = min(_MARGIN, top), min(_MARGIN, left)
            region = pictures[0][top - above : top + side + _MARGIN, left - before : left + side + _MARGIN]
            reference = region[above:, before:][:side, :side]
            distorted = reference
            if rung < len(self._rungs):
                distorted = distort(region[None], *self._rungs[rung], key).frames[0, above:, before:][:side, :side]
        else:
            reference, distorted = (picture[top : top + side, left : left + side] for picture in pictures)
        both = np.stack([distorted, reference])
        return np.ascontiguousarray(np.moveaxis(both[:, :, ::-1] if is_mirrored else both, -1, 1))

    def _picture(self, path: Path) -> RgbFrame:
        """The picture, with its short side scaled up to `side` where it is smaller (D3)."""
        if path in self._decoded:
            self._decoded.move_to_end(path)
            return self._decoded[path]
        pixels = shared_decoder().frames(path, 1).frames[0]
        height, width = pixels.shape[:2]
        if min(height, width) < self._side:
            scale = self._side / min(height, width)
            size = (max(self._side, round(width * scale)), max(self._side, round(height * scale)))
            pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
        self._decoded[path] = pixels
        while len(self._decoded) > 1 and sum(picture.nbytes for picture in self._decoded.values()) > _KEPT_BYTES:
            self._decoded.popitem(last=False)
        return pixels
