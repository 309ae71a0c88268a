"""The scores of a small network of each metric are those that are committed: no refactoring moves one unseen."""

import copy

import pytest
from pin_scores import PINNED, moves, read_table, score_clips

from diffvqa_rt.metrics.registry import METRICS

REMEDY = "If that is meant: python tests/pin_scores.py --engines "


@pytest.fixture(scope="module")
def scores(built_engines):
    return score_clips(built_engines)


def assert_none_has_moved(metric, scores, engines):
    moved = moves(read_table(metric), scores)
    assert not moved, "\n" + "\n".join([*moved, f"{REMEDY}{engines}"])


def test_no_pinned_score_has_moved(scores):
    assert_none_has_moved("diffvqa", scores, "build/tiny")


def test_no_pinned_score_of_a_picture_has_moved(diffv2iqa_engines):
    assert_none_has_moved("diffv2iqa", score_clips(diffv2iqa_engines), "build/diffv2iqa-tiny")


def test_no_pinned_score_against_a_prompt_has_moved(prompted_engines):
    engines = "build/small/engines, which tests/prompted_network.py makes"
    assert_none_has_moved("aigc_vqa", score_clips(prompted_engines), engines)


def test_an_array_and_its_lossless_file_have_the_same_score(scores):
    assert scores["moving file"] == scores["moving array"]


@pytest.mark.parametrize("metric", METRICS)
def test_every_pinned_score_can_move(metric):
    """A score at an end of the range, or equal to another clip's, would hide a move."""
    table = read_table(metric)
    scores = [values["score"][0] for values in table.values()]
    assert all(1 < score < 99 for score in scores)
    alike = {"moving array", "moving file"} <= table.keys()
    assert len(set(scores)) == len(scores) - alike


def test_a_move_is_named_with_its_clip_and_both_values():
    table = read_table("diffvqa")
    moved = copy.deepcopy(table)
    score, weight = table["still.png"]["score"][0], table["frog.mp4"]["frame_weights"][2]
    moved["still.png"]["score"][0] += 0.01
    moved["frog.mp4"]["frame_weights"][2] = float("nan")
    moved["new"] = moved.pop("moving file")
    assert moves(table, table) == []
    assert [" ".join(line.split()) for line in moves(table, moved)] == [
        "moving file is pinned, and no clip any more",
        f"frog.mp4 frame_weights[2] {weight:.7f} → nan",
        f"still.png score[0] {score:.4f} → {score + 0.01:.4f}",
        "new was not pinned",
    ]


@pytest.mark.parametrize("metric", METRICS)
def test_the_table_and_the_clips_agree(metric):
    assert list(read_table(metric)) == list(PINNED[metric][1])
