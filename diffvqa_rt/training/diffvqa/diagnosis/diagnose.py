"""The computation of the pictures of `diffvqa diagnose`: weights, videos and a data set in; pictures and rows out."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from diffvqa_rt.decoding import shared_decoder
from diffvqa_rt.errors import DiagnosisError, VideoDecodeError
from diffvqa_rt.metrics.diffvqa.config import VIEWS
from diffvqa_rt.metrics.diffvqa.views import make_views
from diffvqa_rt.models.diffvqa.checkpoints import load_weights
from diffvqa_rt.models.diffvqa.network import DiffVQA
from diffvqa_rt.synthetic.clip_table import SyntheticClip
from diffvqa_rt.training.diffvqa.decoder import VaeDecoder, load_decoder
from diffvqa_rt.training.diffvqa.diagnosis.curves import draw_curves, read_curves
from diffvqa_rt.training.diffvqa.diagnosis.embedding import (
    Separation,
    Vectors,
    clips_by_content,
    clips_by_distortion,
    fused_vectors,
    project,
    separation,
)
from diffvqa_rt.training.diffvqa.diagnosis.embedding_figure import EmbeddingMap, draw_maps
from diffvqa_rt.training.diffvqa.diagnosis.reconstruction import Reconstruction, Reconstructor
from diffvqa_rt.training.diffvqa.diagnosis.reconstruction_figure import draw_reconstructions

LEAST_CLIPS = 10

FRAMES_PER_CLIP = 2
"""F_DFF sees frames one by one, and a clip's are alike; the paper's figure shows single frames."""

OnFailure = Callable[[str], None]
"""Called with a sentence for each video that is left out."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The network that is looked into, on a GPU if there is one."""

    network: DiffVQA
    is_trained: bool
    device: torch.device

    @classmethod
    def load(cls, weights: Path, threads: int | None = None) -> "Subject":
        """The network of a weights file, which is to run on `threads` CPU threads, or on as many as torch likes.

        Raises:
            DiagnosisError: the file is no weights file, or training has diverged.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            network, is_trained = load_weights(weights)
        except ValueError as error:
            raise DiagnosisError(str(error)) from error
        for name, tensor in network.state_dict().items():
            if not tensor.isfinite().all():
                raise DiagnosisError(f"{weights} has values in {name} that are no finite numbers; training diverged")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return cls(network.to(device), is_trained, device)

    def load_decoder(self, path: Path) -> VaeDecoder:
        """Raises DiagnosisError where there is no decoder, or one of another VAE."""
        try:
            return load_decoder(path, self.network.config.vae).to(self.device)
        except ValueError as error:
            raise DiagnosisError(str(error)) from error


def picture_curves(run: Path, path: Path) -> None:
    """Raises DiagnosisError where the run has none."""
    draw_curves(read_curves(run), str(run), path)


def picture_reconstructions(
    subject: Subject, decoder: VaeDecoder, videos: Iterable[str], seed: int, path: Path, on_failure: OnFailure
) -> list[Reconstruction]:
    """The frame at the middle of each video, in both views. Returns the picture's rows.

    Raises:
        DiagnosisError: no video decodes.
    """
    reconstructor = Reconstructor(subject.network, decoder)
    rows: list[Reconstruction] = []
    for video in videos:
        try:
            frame = shared_decoder().frames(video, 1).frames[0]
        except VideoDecodeError as error:
            on_failure(str(error))
        else:
            rows += reconstructor.reconstruct(video, frame, seed)
    if not rows:
        raise DiagnosisError("no video could be read, and reconstructions show at least one")
    draw_reconstructions(rows, path)
    return rows


def clips_to_embed(clips: Sequence[SyntheticClip], split: str, count: int) -> dict[str, list[SyntheticClip]]:
    """The clips of a set that each column of the picture shows, by what it is coloured by.

    Args:
        split: `train`, `validation`, or `all`.
        count: at most so many clips in each column.

    Raises:
        DiagnosisError: too few clips, or of one class alone.
    """
    candidates = [clip for clip in clips if split in (clip.split, "all")]
    chosen = {"content": clips_by_content(candidates, count), "distortion": clips_by_distortion(candidates, count)}
    for by, some in chosen.items():
        classes = {getattr(clip, by) for clip in some}
        if len(some) < LEAST_CLIPS or len(classes) < 2:
            raise DiagnosisError(
                f"the set has {len(some)} clips of {len(classes)} kinds of {by} to show in its split {split!r}; "
                f"t-SNE needs {LEAST_CLIPS} of 2: give a larger set, or another --split"
            )
    return chosen


def picture_embedding(
    subject: Subject,
    folder: Path,
    chosen: dict[str, list[SyntheticClip]],
    track: Callable[[Sequence[SyntheticClip]], Iterable[SyntheticClip]],
    seed: int,
    path: Path,
    on_failure: OnFailure,
) -> list[tuple[str, Separation]]:
    """F_DFF of both views, for each column's clips. Returns the title and the numbers of each map.

    Args:
        track: shows how far the clips are.

    Raises:
        DiagnosisError: too few clips decode.
    """
    view_size = subject.network.config.view_size
    vectors: dict[str, Vectors] = {}
    for clip in track(list({clip.file: clip for some in chosen.values() for clip in some}.values())):
        try:
            frames = shared_decoder().frames(folder / clip.file, FRAMES_PER_CLIP).frames
        except VideoDecodeError as error:
            on_failure(str(error))
            continue
        views = torch.from_numpy(make_views(frames, view_size, seed)).to(subject.device)
        vectors[clip.file] = fused_vectors(subject.network, views)
    good = {by: [clip for clip in some if clip.file in vectors] for by, some in chosen.items()}
    if any(len(some) < LEAST_CLIPS for some in good.values()):
        raise DiagnosisError(f"only {len(vectors)} clips of {folder} could be read")
    rows = [[_map(view, by, some, vectors) for by, some in good.items()] for view in VIEWS]
    draw_maps(rows, path)
    return [(one.title, one.separation) for row in rows for one in row]


def _map(view: str, by: str, clips: list[SyntheticClip], vectors: dict[str, Vectors]) -> EmbeddingMap:
    stacked = np.stack([vectors[clip.file][VIEWS.index(view)] for clip in clips])
    labels = {
        "content": tuple(clip.content for clip in clips),
        "distortion": tuple(clip.distortion for clip in clips),
    }
    other = "distortion" if by == "content" else "content"
    return EmbeddingMap(view, by, project(stacked), labels[by], separation(stacked, labels[by], labels[other]))
