"""Training and test sides: random splits that repeat, published ones, and which a data set gets."""

import dataclasses
from collections import Counter
from pathlib import Path

import pytest
from opinions import make_table

from diffvqa_rt.errors import EvaluationError
from diffvqa_rt.evaluation.mos_table import MosRow, MosTable
from diffvqa_rt.evaluation.protocols import default_protocols, published_splits, random_splits


def names(rows) -> set[str]:
    return {row.name for row in rows}


def test_ten_splits_are_8_to_2_disjoint_complete_and_different():
    table = make_table(585)
    splits = random_splits(table)
    assert [split.name for split in splits] == [f"split {i}" for i in range(1, 11)]
    for split in splits:
        assert len(split.test) == 117 and len(split.train) == 468
        assert names(split.test).isdisjoint(names(split.train))
        assert names(split.test) | names(split.train) == names(table.rows)
    tests = [frozenset(names(split.test)) for split in splits]
    assert len(set(tests)) == 10
    # A tenth of the test videos of two independent splits, on average 23.4, is nowhere near all or none.
    assert all(5 < len(a & b) < 50 for a in tests for b in tests if a != b)


def test_splits_depend_on_names_and_seed_alone():
    table = make_table(50)
    backwards = MosTable(name="live-vqc", title="x", mos_range=(0, 9), rows=table.rows[::-1])
    assert [names(a.test) for a in random_splits(table)] == [names(b.test) for b in random_splits(backwards)]
    assert [names(a.test) for a in random_splits(table, splits=3)] == [names(b.test) for b in random_splits(table)[:3]]
    assert names(random_splits(table, seed=1)[0].test) != names(random_splits(table)[0].test)
    # Whoever trained on a split of last year's must find it again: these must never change.
    assert sorted(names(random_splits(make_table(20))[0].test)) == ["v000", "v002", "v006", "v014"]


def test_a_content_is_never_on_both_sides():
    table = make_table(60, copies=6)
    for split in random_splits(table):
        contents = [{row.content for row in rows} for rows in (split.train, split.test)]
        assert contents[0].isdisjoint(contents[1]) and len(split.test) == 12


def test_splits_by_image_have_a_content_on_both_sides():
    for split in random_splits(make_table(300, name="live", copies=5), by_row=True):
        assert len(split.test) == 60 and names(split.test).isdisjoint(names(split.train))
        contents = [{row.content for row in rows} for rows in (split.train, split.test)]
        assert len(contents[0] & contents[1]) > 20


def test_splits_by_image_are_those_of_a_data_set_without_contents():
    with_contents, without = make_table(60, name="live", copies=6), make_table(60, name="live")
    by_image = random_splits(with_contents, by_row=True)
    assert [names(split.test) for split in by_image] == [names(split.test) for split in random_splits(without)]
    assert [names(split.test) for split in by_image] != [names(split.test) for split in random_splits(with_contents)]


def test_splits_by_video_have_equal_shares_of_known_generators():
    # Dealt out unevenly: 60, 20 and 20 videos.
    table = make_table(100, name="t2vqa-db", copies=10, generators=("A", "A", "A", "B", None))
    for split in random_splits(table, by_row=True):
        shares = Counter(row.generator for row in split.test)
        assert shares == {"A": 12, "B": 4, None: 4} and len(split.train) == 80
        assert len({row.content for row in split.test}) > 5
    # By content a prompt is whole, with whatever generators it has.
    assert all(len({row.content for row in split.test}) == 2 for split in random_splits(table))


def test_a_generator_of_few_videos_moves_none_of_the_others():
    table = make_table(50, generators=("A",))
    stranger = MosRow(name="new", video=Path("new.mp4"), mos=1.0, generator="B")
    larger = dataclasses.replace(table, rows=(*table.rows, stranger))
    one, other = (random_splits(which, by_row=True)[0] for which in (table, larger))
    assert names(one.test) == names(other.test) and "new" in names(other.train)


@pytest.mark.parametrize(("count", "copies"), [(1, 0), (2, 0), (10, 10)])
def test_a_table_that_cannot_be_split_is_refused(count, copies):
    with pytest.raises(EvaluationError, match="cannot be split into train and test"):
        random_splits(make_table(count, copies=copies))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"splits": 0}, "splits is 0"),
        ({"test_share": 1.0}, r"test_share is 1\.0"),
    ],
)
def test_bad_numbers_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        random_splits(make_table(), **options)


def test_published_splits_are_tested_one_by_one():
    first, second = published_splits(make_table(name="lsvq", splits=("train", "train", "test", "1080p")))
    assert (first.name, second.name) == ("test", "1080p")
    assert {row.split for row in first.test} == {"test"} and {row.split for row in second.test} == {"1080p"}
    assert first.train == second.train and {row.split for row in first.train} == {"train"}


def test_the_validation_split_stands_in_for_a_test_split_without_opinions():
    (split,) = published_splits(make_table(name="kvq", splits=("train", "validation")))
    assert split.name == "validation"
    (split,) = published_splits(make_table(name="kvq", splits=("train", "validation", "test")))
    assert split.name == "test"
    with pytest.raises(EvaluationError, match="KVQ has no published split to test on"):
        published_splits(make_table(name="kvq", splits=("train",)))


@pytest.mark.parametrize(
    ("name", "splits", "trained_on", "protocol"),
    [
        ("konvid-1k", (None,), None, "splits"),
        ("live-vqc", (None,), "live-vqc", "splits"),
        ("youtube-ugc", (None,), "live-vqc", "whole"),
        ("lsvq", ("train", "test"), "lsvq", "published"),
        ("lsvq", ("train", "test"), "konvid-1k", "published"),
        ("kvq", ("train", "validation"), None, "published"),
        ("csv", (None,), None, "whole"),
        ("csv", ("train", "val2"), None, "published"),
    ],
)
def test_the_protocol_is_the_specifications(name, splits, trained_on, protocol):
    assert default_protocols(make_table(name=name, splits=splits), trained_on) == (protocol,)


def test_a_set_with_contents_is_split_in_both_ways_by_whoever_may_have_trained_on_it():
    table = make_table(60, name="live", copies=6)
    assert default_protocols(table, None) == default_protocols(table, "live") == ("splits", "splits-by-image")
    assert default_protocols(table, "pipal") == ("whole",)
    prompts = make_table(60, name="t2vqa-db", copies=6)
    assert default_protocols(prompts, None) == ("splits", "splits-by-video")
    assert default_protocols(make_table(60, name="koniq-10k"), None) == ("splits",)
