"""AIGC-VQA's requests, and the score that becomes of its branches' numbers."""

import dataclasses

import numpy as np
import pytest

from diffvqa_rt.errors import EngineMismatchError, InputError
from diffvqa_rt.metric import Request
from diffvqa_rt.metrics.aigc_vqa.config import Calibration
from diffvqa_rt.metrics.aigc_vqa.metric import METRIC, VISUAL, VOCABULARY
from diffvqa_rt.metrics.aigc_vqa.presets import TINY, TINY_VOCABULARY
from diffvqa_rt.preparation import prepare_frames
from diffvqa_rt.video import sample_frames

RNG = np.random.default_rng(0)
FITTED = dataclasses.replace(
    TINY,
    calibration=Calibration(
        base=40, scale=5, base_visual=45, scale_visual=7, technical=0.5, aesthetic=-0.25, alignment=2
    ),
)
DRAWS = 3
TECHNICAL, AESTHETIC = (RNG.normal(size=(rows, 4, 7, 7)).astype(np.float32) for rows in (DRAWS, 1))
SHOWN = {"technical_map": TECHNICAL, "aesthetic_map": AESTHETIC}
ASKED = SHOWN | {"alignment_score": np.array([1.5], np.float32)}


def finish(outputs, config=FITTED):
    return METRIC.finish(config, outputs, config.frames)


def test_a_source_has_a_draw_of_pieces_a_crop_and_is_shrunk_once():
    sampled = sample_frames(RNG.integers(0, 256, (20, 240, 320, 3), np.uint8), TINY.frames)
    source = prepare_frames(sampled, METRIC, TINY, Request(crops=3), 0)
    assert source.arrays["fragments"].shape == (3, 8, 3, 224, 224)
    assert source.arrays["resized"].shape == (1, 8, 3, 224, 224)
    assert source.rows == 3 and source.crop_regions == ((0, 0, 320, 240),) * 3


def test_the_score_is_the_calibrated_sum_and_parts_are_its_shares():
    results = finish(ASKED)
    q_t, q_a = TECHNICAL.astype(float).mean((1, 2, 3)), AESTHETIC.astype(float).mean()
    np.testing.assert_allclose(results["score"], 40 + 5 * (q_t + q_a + 1.5 - 0.5 + 0.25 - 2))
    np.testing.assert_allclose(results["technical"], 5 * (q_t - 0.5))
    np.testing.assert_allclose(results["raw_aesthetic"], [q_a] * DRAWS)
    shares = sum(results[name] for name in METRIC.part_names(FITTED))
    np.testing.assert_allclose(40 + shares, results["score"])
    assert METRIC.part_names(FITTED) == ("technical", "aesthetic", "alignment")


def test_without_a_prompt_the_score_has_a_calibration_of_its_own():
    results = finish(SHOWN)
    q_t, q_a = TECHNICAL.astype(float).mean((1, 2, 3)), AESTHETIC.astype(float).mean()
    np.testing.assert_allclose(results["score"], 45 + 7 * (q_t + q_a - 0.5 + 0.25))
    assert "alignment" not in results and "raw_alignment" not in results


@pytest.mark.parametrize("outputs", [ASKED, SHOWN], ids=["with prompt", "without"])
def test_the_curves_weighted_sum_is_the_score(outputs):
    results = finish(outputs)
    assert results["frame_scores"].shape == (DRAWS, TINY.frames)
    np.testing.assert_allclose((results["frame_scores"] * results["frame_weights"]).sum(1), results["score"])
    # One token is of two frames.
    np.testing.assert_array_equal(results["frame_scores"][:, ::2], results["frame_scores"][:, 1::2])
    by_hand = TECHNICAL[1, 2].astype(float).mean() - TECHNICAL[1].astype(float).mean()
    by_hand += AESTHETIC[0, 2].astype(float).mean() - AESTHETIC.astype(float).mean()
    scale = 5 if "alignment_score" in outputs else 7
    assert results["frame_scores"][1, 4] - results["score"][1] == pytest.approx(scale * by_hand)


def test_a_patchs_weighted_sum_is_the_raw_part():
    results = finish(ASKED)
    by_frame = (results["patch_scores"] * results["patch_weights"]).sum((3, 4))
    np.testing.assert_allclose(by_frame.mean(1)[:, 0], results["raw_technical"])
    np.testing.assert_array_equal(results["patch_scores"][2, 5, 0], TECHNICAL[2, 2])


@pytest.mark.parametrize(("chain", "outputs"), [("aigc_vqa", ASKED), (VISUAL, SHOWN)])
def test_results_are_as_declared(chain, outputs):
    declared = {
        spec.name: (spec.dtype, tuple(DRAWS if size == "videos" else size for size in spec.shape))
        for spec in METRIC.results(FITTED, chain)
    }
    assert {name: (str(values.dtype), values.shape) for name, values in finish(outputs).items()} == declared


def test_a_request_with_a_prompt_takes_the_whole_chain():
    assert METRIC.choose(Request(prompt="a cat")) == "aigc_vqa"
    assert METRIC.choose(Request()) == VISUAL
    METRIC.check(Request(prompt="a cat", crops=2, patch_maps=True))
    with pytest.raises(InputError, match="frames is 3; AIGC-VQA does not take it"):
        METRIC.check(Request(frames=3))


@pytest.mark.parametrize(
    ("prompt", "complaint"),
    [
        ("", "prompt is blank; leave it out to score the video alone"),
        (" \n\t", "prompt is blank"),
        (7, "prompt is a int; expected a text"),
        (b"cat", "prompt is a bytes"),
        ("a\ud800", "prompt is no text in Unicode .*at 1"),
    ],
)
def test_a_prompt_that_says_nothing_is_the_requests_fault(prompt, complaint):
    with pytest.raises(InputError, match=complaint):
        Request(prompt=prompt)


def test_a_prompt_is_read_with_the_folders_vocabulary(tmp_path):
    (tmp_path / VOCABULARY).write_bytes(TINY_VOCABULARY.read_bytes())
    read = METRIC.prompts.open(TINY, tmp_path)
    short, long = read("a red ball"), read("a red ball " * 30)
    assert short.arrays["token_ids"].shape == short.arrays["token_mask"].shape == (1, TINY.text.prompt_tokens)
    assert (short.facts.text, short.facts.tokens, short.facts.is_truncated) == ("a red ball", 8, False)
    assert long.facts.tokens == 182 and long.facts.is_truncated and not short.warnings
    assert [warning.message for warning in long.warnings] == [
        "its prompt has 182 tokens, and the network reads the first 35"
    ]


def test_another_vocabulary_is_refused(tmp_path):
    with pytest.raises(EngineMismatchError, match="cannot be read"):
        METRIC.prompts.open(TINY, tmp_path)
    (tmp_path / VOCABULARY).write_bytes(TINY_VOCABULARY.read_bytes() + b"more\n")
    with pytest.raises(EngineMismatchError, match="SHA-256"):
        METRIC.prompts.open(TINY, tmp_path)
