"""The clips that t-SNE shows, their features, and the numbers beside the picture."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from synthetic_clips import clip_of

from diffvqa_rt.metrics.diffvqa.presets import TINY
from diffvqa_rt.models.diffvqa.network import random_network
from diffvqa_rt.training.diffvqa.diagnosis.embedding import (
    DISTORTIONS,
    LEAST_SEVERITY,
    clips_by_content,
    clips_by_distortion,
    fused_vectors,
    project,
    separation,
)
from diffvqa_rt.training.diffvqa.diagnosis.embedding_figure import EmbeddingMap, draw_maps

LADDERS = (*DISTORTIONS, "judder", "av1")


@pytest.fixture(scope="module")
def clips():
    """Contents 0 … 13, of which 0 and 1 show the same thing; each with six ladders, as a set draws them."""
    names = [f"content{number:02}" for number in range(14)]
    return [
        clip_of(name, LADDERS[(c + ladder) % len(LADDERS)], severity, group="pair" if c < 2 else name)
        for c, name in enumerate(names)
        for ladder in range(6)
        for severity in range(6)
    ]


def test_contents_are_ten_that_differ_and_come_evenly(clips):
    chosen = clips_by_content(clips, 55)
    counts = Counter(clip.content for clip in chosen)
    assert len(chosen) == 55 and len(counts) == 10 and set(counts.values()) == {5, 6}
    assert "content00" in counts and "content01" not in counts
    assert min(clip.severity for clip in chosen) == LEAST_SEVERITY
    assert len({clip.file for clip in chosen}) == 55
    assert clips_by_content(clips[::-1], 55) == chosen


def test_distortions_are_the_known_ones_evenly_over_all_contents(clips):
    chosen = clips_by_distortion(clips, 80)
    assert Counter(clip.distortion for clip in chosen) == dict.fromkeys(DISTORTIONS, 10)
    contents = Counter(clip.content for clip in chosen)
    assert len(contents) == 14 and max(contents.values()) - min(contents.values()) <= 2
    assert len(clips_by_distortion(clips, 10_000)) == sum(
        clip.severity >= LEAST_SEVERITY and clip.distortion in DISTORTIONS for clip in clips
    )


@torch.inference_mode()
def test_vectors_are_the_means_of_what_each_head_fuses():
    head_alone = dataclasses.replace(TINY.head, tcab=dataclasses.replace(TINY.head.tcab, views="none"))
    network = random_network(dataclasses.replace(TINY, frames=2, view_size=64, head=head_alone))
    frames = torch.rand(1, 4, 3, 64, 64) * 2 - 1
    fused = []
    for head in (network.head.semantic, network.head.distortion):
        head.dff.register_forward_hook(lambda _module, _inputs, output: fused.append(output))
    network(frames)
    expected = np.stack([output.double().mean(dim=(0, 2, 3)).numpy() for output in fused])
    vectors = fused_vectors(network, frames)
    assert vectors.shape == (2, 32)
    np.testing.assert_allclose(vectors, expected, rtol=1e-4, atol=1e-6)
    # A video of one frame will do.
    assert fused_vectors(network, frames[:, :2]).shape == (2, 32)


def cloud(count_each: int, spread: float) -> tuple[np.ndarray, list[str], list[str]]:
    """Vectors about one centre for each of four labels, and another label that has nothing to do with them."""
    generator = np.random.default_rng(0)
    centres = 10 * generator.standard_normal((4, 16))
    labels = np.repeat(np.arange(4), count_each)
    vectors = centres[labels] + spread * generator.standard_normal((4 * count_each, 16))
    return vectors, [f"class{label}" for label in labels], [str(i % 3) for i in range(4 * count_each)]


def test_classes_that_lie_apart_are_found_apart():
    numbers = separation(*cloud(20, spread=0.3))
    assert numbers.silhouette > 0.9 and numbers.neighbours == 1
    assert numbers.chance == pytest.approx(0.25, abs=0.02)


def test_classes_that_mean_nothing_are_at_chance():
    vectors, labels, others = cloud(50, spread=0.3)
    shuffled = list(np.random.default_rng(1).permutation(labels))
    numbers = separation(vectors, shuffled, others)
    assert -0.15 < numbers.silhouette < 0.05 and abs(numbers.neighbours - numbers.chance) < 0.05


def test_neighbours_that_share_the_other_label_do_not_count():
    # Each content has a place of its own, and there its distortions' severities are neighbours: of the distortion that
    # says nothing.
    generator = np.random.default_rng(0)
    contents = np.repeat(np.arange(12), 8)
    distortions = np.tile(np.repeat(np.arange(2), 4), 12)
    place = 10 * generator.standard_normal((12, 16))[contents]
    pair = generator.standard_normal((24, 16))[contents * 2 + distortions]
    vectors = place + pair + 0.01 * generator.standard_normal((96, 16))
    names = [f"content{c}" for c in contents], [f"distortion{d}" for d in distortions]
    by_distortion = separation(vectors, names[1], names[0])
    assert by_distortion.chance == pytest.approx(0.5) and abs(by_distortion.neighbours - 0.5) < 0.15
    assert separation(vectors, *names).neighbours > 0.7


def test_a_constant_element_says_nothing():
    vectors, labels, others = cloud(10, spread=0.3)
    padded = np.hstack([vectors, np.full((40, 1), 1e3)])
    ours, theirs = separation(padded, labels, others), separation(vectors, labels, others)
    assert ours.silhouette == pytest.approx(theirs.silhouette) and ours.neighbours == theirs.neighbours


def test_the_map_keeps_classes_apart_and_is_the_same_twice(tmp_path):
    vectors, labels, others = cloud(20, spread=0.3)
    positions = project(vectors)
    assert positions.shape == (80, 2) and np.array_equal(positions, project(vectors))
    assert separation(positions, labels, others).neighbours == 1
    numbers = separation(vectors, labels, others)
    maps = [EmbeddingMap("semantic", by, positions, tuple(labels), numbers) for by in ("content", "distortion")]
    draw_maps([maps, maps], tmp_path / "tsne.png")
    assert (tmp_path / "tsne.png").read_bytes().startswith(b"\x89PNG")
