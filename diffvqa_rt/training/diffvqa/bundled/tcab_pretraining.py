"""A TCAB's training before the head: the quality of single frames, then of clips, without the diffusion's features.

The paper's TCAB starts from weights that VideoMamba learned on other videos. `tiny` has none to start from, and by way
of the whole head its patches would take days to find out what a blurred edge is.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from diffvqa_rt.errors import TrainingError
from diffvqa_rt.metrics.diffvqa.config import DiffVQAConfig
from diffvqa_rt.metrics.diffvqa.engines import PIXELS
from diffvqa_rt.models.diffvqa.tcab import MambaBlock, TemporalCoherenceBlock
from diffvqa_rt.synthetic.distortions import LADDERS
from diffvqa_rt.synthetic.labelled import LabelledVideo
from diffvqa_rt.synthetic.views import read_views
from diffvqa_rt.training.loop import Batch, Objective, StepBatches
from diffvqa_rt.training.opinions import frame_opinion_loss

# Along each axis of a patch of 16, in half periods: dense where pictures have their energy.
_FREQUENCIES = (0, 1, 2, 4, 6, 9, 12, 15)
_COLOURS = ((0, 0), (0, 1), (1, 0))
_LUMA = (0.299, 0.587, 0.114)
_COLOUR_DIFFERENCES = ((0.5, -0.419, -0.081), (-0.169, -0.331, 0.5))


class ReadTcab(nn.Module):
    """A TCAB, read twice: frames [B, N, 3, s, s] in [−1, 1] → scores [B, 2, N], shares of the range.

    The first of the two are read from the VQA token, as the head does, the second from the mean of each frame's own
    tokens. Through those the patches learn at once what to tell, and the VQA token has something to gather: after 200
    steps on the recipe's pairs, with half of its contents, SRCC on others' codecs and scalings was 0.53, and 0.08
    without (both with another start of the first mixer, which made little difference and was not kept).

    The frames are views, or parts of them, 1/`across` as wide and high: as many pixels then show `across`² as many
    scenes, which is what a step learns from. The error after 300 steps of 16 pairs of views was 0.21, and 0.19 of 64
    pairs of quarters, in which there is less to see, at nine tenths of the cost (training contents, L1).

    Args:
        frames: N.
    """

    def __init__(self, config: DiffVQAConfig, *, frames: int, across: int = 1) -> None:
        super().__init__()
        self.tcab = TemporalCoherenceBlock(replace(config, frames=frames))
        places = (config.view_size // config.head.tcab.patch_size // across) ** 2
        self.tcab.pos_embed = nn.Parameter(self.tcab.pos_embed[:, : 1 + places].detach().clone())
        self.of_token = nn.Linear(config.head.tcab.width, frames)
        self.of_patches = nn.Linear(config.head.tcab.width, 1)
        for readout in (self.of_token, self.of_patches):
            nn.init.constant_(readout.bias, 0.5)

    def forward(self, frames: Tensor) -> Tensor:
        tokens = self.tcab.norm_f(self.tcab.tokens(frames))
        by_frame = tokens[:, 1:].unflatten(1, (frames.shape[1], -1)).mean(dim=2)
        return torch.stack([self.of_token(tokens[:, 0]), self.of_patches(by_frame)[:, :, 0]], dim=1)


class ReadTcabObjective(Objective):
    """`frame_opinion_loss` of both scores of a `ReadTcab`; args of `forward` as `VersionPairs` gives them."""

    recomputed = (MambaBlock,)

    def __init__(self, trained: ReadTcab, config: DiffVQAConfig) -> None:
        super().__init__()
        self.trained: ReadTcab = trained
        low, high = config.score_range
        self._range = high - low

    def forward(self, frames: Tensor, frame_labels: Tensor, severity: Tensor, unit: Tensor) -> dict[str, Tensor]:
        scores, shares = self.trained(frames).float(), frame_labels / self._range
        of_token, of_patches = (frame_opinion_loss(score, shares, severity, unit) for score in scores.unbind(dim=1))
        return of_token | {"loss": of_token["loss"] + of_patches["loss"], "l1_of_patches": of_patches["l1"]}


class VersionPairs(StepBatches):
    """Step s gives pairs of versions of a scene: the same frames, at the same place, of two rungs of one ladder.

    A place is a square within one of the kept crops; the whole frame's view is left out, since what is wrong with a
    large picture does not show in it. Single frames are not taken of ladders that damage time alone.

    Both are turned by the same quarters, mirrored or not, and have their colours turned and paled alike, none of which
    VMAF can tell: it sees luma, and no direction is another to it. Without these augmentations, SRCC on codecs and
    scalings after 1,500 steps on quarters of views is 0.76 on training contents and 0.69 on held-out ones; with them,
    0.71 and 0.70. More steps then go on teaching what holds for other contents.

    Args:
        videos: of a synthetic set, `with_views`.
        batch: versions in a step.
        frames: so many in a row, of those that are kept.
        size: of the square that is taken at a random place.

    Raises:
        TrainingError: fewer frames are kept.
    """

    def __init__(self, videos: Sequence[LabelledVideo], *, batch: int, frames: int, size: int, seed: int) -> None:
        super().__init__(seed)
        if batch % 2:
            raise ValueError(f"batch is {batch}; expected an even number, since versions come in pairs")
        kept = read_views(videos[0].path).shape[1]
        if kept < frames:
            raise TrainingError(f"{videos[0].path} has {kept} frames, and {frames} are needed; make the set again")
        self._batch, self._frames, self._size = batch, frames, size
        ladders: dict[str, list[LabelledVideo]] = {}
        for video in videos:
            if frames > 1 or not LADDERS[str(video.ladder).rpartition("/")[2]].needs_motion:
                ladders.setdefault(str(video.ladder), []).append(video)
        self._ladders = list(ladders.values())

    def __getitem__(self, step: int) -> Batch:
        generator = self.generator(step)
        pictures, members, labels, colours = [], [], [], []
        for _ in range(self._batch // 2):
            ladder = self._ladders[int(generator.integers(len(self._ladders)))]
            pair = [ladder[int(index)] for index in generator.choice(len(ladder), 2, replace=False)]
            views = [read_views(video.path) for video in pair]
            crop = int(generator.integers(1, len(views[0])))
            first = int(generator.integers(views[0].shape[1] - self._frames + 1))
            top, left = (int(generator.integers(side - self._size + 1)) for side in views[0].shape[3:])
            mirrored, quarters = generator.integers(2), int(generator.integers(4))
            colours.append(_other_colours(generator.uniform(0, 2 * math.pi), generator.uniform()))
            during = slice(first, first + self._frames)
            for video, kept in zip(pair, views, strict=True):
                squares = kept[crop, during, :, top : top + self._size, left : left + self._size]
                pictures.append(np.rot90(squares[..., ::-1] if mirrored else squares, quarters, axes=(2, 3)))
                unknown = (math.nan,) * kept.shape[1]
                labels.append((video.frame_labels or unknown)[during])
            members += pair
        frames = torch.from_numpy(PIXELS.normalize(np.stack(pictures))).unflatten(0, (-1, 2))
        frames = torch.einsum("pij,pvnjhw->pvnihw", torch.tensor(np.stack(colours), dtype=torch.float32), frames)
        return {
            "frames": frames.flatten(0, 1).clamp(-1, 1),
            "frame_labels": torch.tensor(labels, dtype=torch.float32),
            "severity": torch.tensor([video.severity for video in members]),
            "unit": torch.arange(self._batch) // 2,
        }


def _other_colours(angle: float, saturation: float) -> NDArray[np.float64]:
    """The matrix [3, 3] that turns RGB's colours by an angle, radians, and scales their saturation, luma kept."""
    to_luma = np.array([_LUMA, *_COLOUR_DIFFERENCES])
    cosine, sine = saturation * math.cos(angle), saturation * math.sin(angle)
    turned = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    return np.linalg.inv(to_luma) @ turned @ to_luma


@torch.no_grad()
def start_as_frequencies(projection: nn.Conv3d, pictures: Tensor) -> None:
    """Makes the patches' projection a cosine transform: all frequencies up to the highest, and a little of colour.

    Each of its outputs gets mean 0 and deviation 1 over the pictures [B, 3, S, S]. In white filters, as layers start
    out, the flat and the slow have nearly all the energy, and what quality is told by drowns in it.
    """
    width, _, _, side, _ = projection.weight.shape
    places = (torch.arange(side) + 0.5) * math.pi / side
    waves = torch.stack([torch.cos(frequency * places) for frequency in range(side)])
    slow_first = sorted(((down, across) for down in _FREQUENCIES for across in _FREQUENCIES), key=sum)
    coloured = [(colour, pair) for colour in _COLOUR_DIFFERENCES for pair in _COLOURS]
    grey = [(_LUMA, pair) for pair in slow_first[: max(width - len(coloured), 1)]]
    for row, (colour, (down, across)) in enumerate([*grey, *coloured][:width]):
        wave = waves[down % side][:, None] * waves[across % side]
        projection.weight[row, :, 0] = torch.tensor(colour)[:, None, None] * wave
    outputs = F.conv3d(pictures[:, :, None], projection.weight, stride=projection.stride)
    deviation, mean = torch.std_mean(outputs, dim=(0, 2, 3, 4))
    projection.weight /= deviation[:, None, None, None, None]
    projection.bias = nn.Parameter(-mean / deviation)


@torch.no_grad()
def grow(learned: ReadTcab, config: DiffVQAConfig, *, frames: int, across: int) -> ReadTcab:
    """One for as many or more frames and as large or larger parts, which begins by repeating the places it knows."""
    grown = ReadTcab(config, frames=frames, across=across)
    weights = learned.state_dict()
    embedding, time = weights["tcab.pos_embed"], weights["tcab.temporal_pos_embedding"]
    before, after = (math.isqrt(x.tcab.pos_embed.shape[1] - 1) for x in (learned, grown))
    grid = embedding[:, 1:].unflatten(1, (before, before)).tile(1, after // before, after // before, 1)
    again = frames // time.shape[1]
    repeated = {
        "tcab.pos_embed": torch.cat([embedding[:, :1], grid.flatten(1, 2)], dim=1),
        "tcab.temporal_pos_embedding": time.repeat_interleave(again, dim=1),
        "of_token.weight": weights["of_token.weight"].repeat_interleave(again, dim=0),
        "of_token.bias": weights["of_token.bias"].repeat_interleave(again),
    }
    grown.load_state_dict(weights | repeated)
    return grown
