"""Prompts of generated scenes: what they say, how right they are, and the vocabulary that spells them."""

import dataclasses
import hashlib
import re
import string

import numpy as np
import pytest

from diffvqa_rt.metrics.aigc_vqa.presets import TINY, TINY_VOCABULARY
from diffvqa_rt.synthetic.prompted.prompts import SHAPES, TEMPLATES, VALUES, attributes_of, draw_prompt, draw_scene
from diffvqa_rt.synthetic.prompted.vocabulary import main, prompt_vocabulary
from diffvqa_rt.text.wordpiece import WordPiece

SHA256 = TINY.text.vocabulary_sha256


def prompts(count: int):
    generator = np.random.default_rng(0)
    for _ in range(count):
        scene = draw_scene(generator)
        yield scene, draw_prompt(scene, generator)


def spoken(scene, prompt) -> list[bool]:
    """Of each attribute that the prompt's template tells of: is its value the scene's?"""
    values = dataclasses.asdict(scene)
    for template in TEMPLATES:
        names = attributes_of(template)
        pattern = re.escape(template)
        for name in names:
            pattern = pattern.replace(rf"\{{{name}\}}", f"(?P<{name}>{'|'.join(VALUES[name])})(e?s)?", 1)
        if told := re.fullmatch(pattern, prompt.text):
            return [told[name] == values[name] for name in names]
    raise AssertionError(f"no template says {prompt.text!r}")


def test_a_prompt_is_right_about_the_share_of_the_scene_that_it_says():
    for scene, prompt in prompts(300):
        assert prompt.right == pytest.approx(np.mean(spoken(scene, prompt)))
    shares = [prompt.right for _, prompt in prompts(300)]
    assert {0.0, 1.0} < set(shares) and len(set(shares)) > 10 and 0.4 < np.mean(shares) < 0.6


def test_shapes_are_seen_before_their_background():
    assert all(scene.colour != scene.background for scene, _ in prompts(300))


def test_a_shape_is_in_the_plural_where_there_are_several():
    for _, prompt in prompts(300):
        assert ("one" in prompt.text.split()) == any(shape in prompt.text.replace(",", "").split() for shape in SHAPES)


def test_the_kept_vocabulary_is_the_one_that_the_script_writes_and_the_preset_names(tmp_path, capsys):
    assert main([str(tmp_path / "vocab.txt")]) == 0 and SHA256 in capsys.readouterr().out
    assert TINY_VOCABULARY.read_bytes() == (tmp_path / "vocab.txt").read_bytes()
    assert hashlib.sha256(prompt_vocabulary()).hexdigest() == SHA256
    assert prompt_vocabulary().count(b"\n") == TINY.text.vocabulary


def test_the_vocabulary_has_our_own_prompts_in_whole_words_within_the_networks_length():
    vocabulary = WordPiece.read(TINY_VOCABULARY, SHA256)
    for _, prompt in prompts(300):
        tokens = vocabulary.encode(prompt.text, TINY.text.prompt_tokens)
        punctuation = sum(prompt.text.count(character) for character in string.punctuation)
        assert tokens.count == 2 + len(prompt.text.split()) + punctuation and not tokens.is_truncated


def test_the_vocabulary_spells_any_english_prompt():
    vocabulary = WordPiece.read(TINY_VOCABULARY, SHA256)
    unknown = TINY_VOCABULARY.read_text().split("\n").index("[UNK]")
    printable = vocabulary.encode(f"The quick brown fox (aged 12) isn't {' '.join(string.printable)}", 512)
    assert unknown not in printable.ids and not printable.is_truncated
    assert unknown in vocabulary.encode("中", 8).ids
