"""A hundred broken files, and what the generator that makes them promises; `make fuzz` tries ten thousand."""

from diffvqa_rt.video import sample_frames
from fuzz.corpus import sound_files
from fuzz.files import fuzz_command, fuzz_files
from fuzz.mutations import MUTATIONS, mutated

SEED = 0


def test_the_corpus_is_sound() -> None:
    for name, file in sound_files().items():
        sampled = sample_frames(file, 2)
        assert not sampled.warnings, name


def test_a_seed_gives_the_same_files() -> None:
    files = {"a.png": bytes(range(256)) * 4, "b.mp4": b"\0\0\0\x10ftypisom\0\0\0\0" * 9}
    made = [mutated(files, SEED, index) for index in range(300)]
    assert made == [mutated(files, SEED, index) for index in range(300)]
    assert made != [mutated(files, SEED + 1, index) for index in range(300)]
    assert all(data for _, data in made)
    assert sum(data in files.values() for _, data in made) < 10
    assert all(any(mutation.__name__ in what for what, _ in made) for mutation in MUTATIONS)


def test_a_hundred_broken_files_are_scored_or_refused() -> None:
    outcomes = fuzz_files(sound_files(), 100, SEED)
    assert outcomes.faults == []
    assert sum(outcomes.counts.values()) == 100
    # Neither is a decoder that refuses all, or one that notices nothing, what this is for.
    assert min(outcomes.counts["refused"], outcomes.counts["scored"], outcomes.warnings["damaged"]) >= 5


def test_the_command_has_a_row_for_every_broken_file(small_engines) -> None:
    outcomes = fuzz_command(sound_files(), 8, SEED, small_engines)
    assert outcomes.faults == []
    assert sum(outcomes.counts.values()) == 8
