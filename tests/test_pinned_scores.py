"""The scores of `tiny` are those that are committed: no refactoring moves one unseen."""

import copy

import pytest
from pin_scores import CLIPS, moves, read_table, score_clips


@pytest.fixture(scope="module")
def scores(built_engines):
    return score_clips(built_engines)


def test_no_pinned_score_has_moved(scores):
    moved = moves(read_table(), scores)
    assert not moved, "\n" + "\n".join([*moved, "If that is meant: python tests/pin_scores.py --engines build/tiny"])


def test_an_array_and_its_lossless_file_have_the_same_score(scores):
    assert scores["moving file"] == scores["moving array"]


def test_every_pinned_score_can_move():
    """A score at an end of the range, or equal to another clip's, would hide a move."""
    table = read_table()
    scores = [values["score"][0] for values in table.values()]
    assert all(1 < score < 99 for score in scores)
    assert len(set(scores)) == len(scores) - 1  # the array and its lossless file


def test_a_move_is_named_with_its_clip_and_both_values():
    table = read_table()
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


def test_the_table_and_the_clips_agree():
    assert list(read_table()) == list(CLIPS)
