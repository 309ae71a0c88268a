"""Separation of contents and distortions by the fused features (paper §5.2, fig. 7), in numbers and as a map."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from torch import Tensor

from diffvqa_rt.metrics.diffvqa.config import VIEWS
from diffvqa_rt.models.diffvqa.network import DiffVQA
from diffvqa_rt.synthetic.clip_table import SyntheticClip

DISTORTIONS = (
    *("h264", "scaling", "gaussian_blur", "motion_blur", "gaussian_noise", "banding", "sharpening", "low_light"),
)
"""Distortions that are visible in a single frame and easy to tell apart."""

LEAST_SEVERITY = 3
"""Weaker distortions are still close to their reference, and to each other."""

MOST_CONTENTS = 10
NEIGHBOURS = 5

Vectors = NDArray[np.float64]


def clips_by_content(clips: Sequence[SyntheticClip], count: int) -> list[SyntheticClip]:
    """At most `count` clips of at most ten contents that show different things, evenly over contents."""
    distorted = [clip for clip in clips if clip.severity >= LEAST_SEVERITY]
    sizes = Counter(clip.content for clip in distorted)
    group_of = {clip.content: clip.group for clip in distorted}
    first_of_group: dict[str, str] = {}
    for content in sorted(sizes, key=lambda name: (-sizes[name], name)):
        first_of_group.setdefault(group_of[content], content)
    chosen = set(list(first_of_group.values())[:MOST_CONTENTS])
    return _evenly(
        [clip for clip in distorted if clip.content in chosen], count, lambda c: c.content, lambda c: c.distortion
    )


def clips_by_distortion(clips: Sequence[SyntheticClip], count: int) -> list[SyntheticClip]:
    """At most `count` clips of `DISTORTIONS`, evenly over those, and over as many contents as there are."""
    distorted = [clip for clip in clips if clip.severity >= LEAST_SEVERITY and clip.distortion in DISTORTIONS]
    return _evenly(distorted, count, lambda c: c.distortion, lambda c: c.content)


def _evenly(clips: Sequence[SyntheticClip], count: int, *keys: Callable[[SyntheticClip], str]) -> list[SyntheticClip]:
    """Takes one clip after the other, of the class that has the fewest yet; the keys decide in their order."""
    taken: list[SyntheticClip] = []
    taken_of: Counter[tuple[str, ...]] = Counter()

    def classes(clip: SyntheticClip) -> list[tuple[str, ...]]:
        names = [key(clip) for key in keys]
        return [*((str(place), name) for place, name in enumerate(names)), ("together", *names)]

    remaining = sorted(clips, key=lambda clip: clip.sha256)
    while remaining and len(taken) < count:
        clip = min(remaining, key=lambda clip: [taken_of[name] for name in classes(clip)])
        remaining.remove(clip)
        taken.append(clip)
        taken_of.update(classes(clip))
    return taken


@torch.inference_mode()
def fused_vectors(network: DiffVQA, frames: Tensor) -> Vectors:
    """F_DFF-S and F_DFF-D of a video, the mean over frames and places, [2, C_f].

    Args:
        frames: [1, 2N, 3, S, S] in [−1, 1], views interleaved.
    """
    latent, features = network.extract(frames)
    vectors = []
    for index, head in enumerate((network.head.semantic, network.head.distortion)):
        view = slice(index, None, len(VIEWS))
        fused = head.dff(latent[0, view], [feature[0, view] for feature in features])
        vectors.append(fused.mean(dim=(0, 2, 3)))
    return torch.stack(vectors).double().cpu().numpy()


@dataclass(frozen=True, slots=True)
class Separation:
    """Closeness of vectors of one class.

    `silhouette` is −1 … 1, by cosine distance, and 0 or less where classes mean nothing. `neighbours` is the share of
    the nearest five that are of a vector's own class, and `chance` what it is for vectors that know nothing. Neighbours
    that share the other label (the same content with the same distortion, only weaker) are not asked.
    """

    silhouette: float
    neighbours: float
    chance: float

    def __str__(self) -> str:
        return (
            f"silhouette {self.silhouette:.2f}, {self.neighbours:.0%} of {NEIGHBOURS} nearest alike "
            f"(chance {self.chance:.0%})"
        )


def separation(vectors: Vectors, labels: Sequence[str], other_labels: Sequence[str]) -> Separation:
    """Separation of vectors [n, C] by `labels`, of which there are two or more."""
    vectors = standardized(vectors)
    _, classes = np.unique(labels, return_inverse=True)
    _, others = np.unique(other_labels, return_inverse=True)
    is_asked = others[:, None] != others
    is_alike = classes[:, None] == classes
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    similarity = np.where(is_asked, unit @ unit.T, -np.inf)
    shares, chances = [], []
    for own, asked, alike in zip(similarity, is_asked, is_alike, strict=True):
        if asked.any():
            nearest = np.argsort(-own, kind="stable")[: min(NEIGHBOURS, int(asked.sum()))]
            shares.append(alike[nearest].mean())
            chances.append(alike[asked].mean())
    return Separation(
        silhouette=float(silhouette_score(vectors, classes, metric="cosine")),
        neighbours=float(np.mean(shares)) if shares else float("nan"),
        chance=float(np.mean(chances)) if chances else float("nan"),
    )


def project(vectors: Vectors) -> Vectors:
    """The t-SNE map of vectors [n, C] by cosine distance, [n, 2]; the same for the same vectors."""
    perplexity = min(30.0, max(2.0, len(vectors) / 8))
    tsne = TSNE(perplexity=perplexity, metric="cosine", init="random", random_state=0)
    return np.asarray(tsne.fit_transform(standardized(vectors)), dtype=np.float64)


def standardized(vectors: Vectors) -> Vectors:
    """Each element to mean 0 and deviation 1: a frame's brightness alone would else decide; a constant one to 0."""
    deviation = vectors.std(axis=0)
    return (vectors - vectors.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
