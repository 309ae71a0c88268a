"""Weights by name: fetched from a Hub on this machine, compared with its hashes, and had again without it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_stub import COMMIT, HubStub, hub_of

from diffvqa_rt.errors import WeightsError
from diffvqa_rt.extras import needs_package
from diffvqa_rt.hub import HubWeights, local_weights

LAYOUT = ("unet/weights.safetensors", "tokenizer/vocab.json")
FILES = {
    "me/ours": {"model.safetensors": b"our weights", "README.md": b"ours", "pytorch_model.bin": b"a pickle"},
    "me/published": {"unet/weights.safetensors": b"a unet", "tokenizer/vocab.json": b"{}", "big.safetensors": b"no"},
    "me/pickled": {"pytorch_model.bin": b"a pickle"},
}


@pytest.fixture
def hub(tmp_path) -> Iterator[HubStub]:
    with hub_of({name: dict(files) for name, files in FILES.items()}, tmp_path / "cache") as stub:
        yield stub


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf://a/b@main", HubWeights(repository="a/b", revision="main")),
        ("hf://a/b-1.0@v1/x/y.safetensors", HubWeights(repository="a/b-1.0", revision="v1", file="x/y.safetensors")),
    ],
)
def test_a_name_is_read_and_written(text, expected):
    assert HubWeights.parse(text) == expected and str(expected) == text


@pytest.mark.parametrize("text", ["hf://a/b", "hf://a@main", "hf://a/b@", "hf://a/b@main/w.bin", "hf://a/b@main@v1"])
def test_another_name_is_refused(text):
    with pytest.raises(ValueError, match="expected hf://ORG/NAME@REVISION, where REVISION is a commit, a tag or"):
        local_weights(text)


def test_a_path_is_no_name():
    assert local_weights("runs/w.safetensors") == Path("runs/w.safetensors")


@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_a_file_of_ours_is_fetched_and_nothing_else(hub, revision):
    path = local_weights(f"hf://me/ours@{revision}", LAYOUT)
    assert path.read_bytes() == b"our weights"
    assert [name.name for name in path.parent.iterdir()] == ["model.safetensors"]


def test_a_named_file_is_fetched(hub):
    assert local_weights("hf://me/published@v1/big.safetensors").read_bytes() == b"no"


def test_a_layout_is_fetched_as_a_folder(hub):
    folder = local_weights("hf://me/published@main", LAYOUT)
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == set(LAYOUT)


def test_the_cache_serves_without_a_network(hub):
    first = local_weights("hf://me/ours@main")
    hub.stop()
    assert local_weights("hf://me/ours@main") == first
    assert local_weights(f"hf://me/ours@{COMMIT}") == first
    with pytest.raises(WeightsError, match=r"hf://me/published@main is not whole in the cache .* cannot be reached \("):
        local_weights("hf://me/published@main", LAYOUT)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("hf://me/nothing@main", "the Hub has no repository me/nothing, or it is private"),
        ("hf://me/ours@v9", "me/ours has no revision v9"),
        ("hf://me/ours@main/other.safetensors", "has no file other.safetensors"),
        ("hf://me/pickled@main", "has no file model.safetensors, and none of unet/weights.safetensors, tokenizer/"),
    ],
)
def test_what_is_not_there_is_named(hub, text, sentence):
    with pytest.raises(WeightsError, match=sentence) as raised:
        local_weights(text, LAYOUT)
    assert text in str(raised.value) and "\n" not in str(raised.value)


def test_what_was_altered_on_the_way_is_refused(hub):
    hub.altered.add("model.safetensors")
    with pytest.raises(WeightsError, match=r"model.safetensors of hf://me/ours@main has the hash .* the Hub has"):
        local_weights("hf://me/ours@main")


@pytest.mark.parametrize("name", LAYOUT)
def test_what_was_altered_in_the_cache_is_refused(hub, name):
    file = local_weights("hf://me/published@main", LAYOUT) / name
    file.resolve().write_bytes(b"something else")
    with pytest.raises(WeightsError, match=f"{name} of hf://me/published@main has the hash"):
        local_weights("hf://me/published@main", LAYOUT)


def test_without_the_extra_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsError) as raised:
        local_weights("hf://me/ours@main")
    assert str(raised.value) == needs_package("hf://me/ours@main", "huggingface_hub", "hub")
