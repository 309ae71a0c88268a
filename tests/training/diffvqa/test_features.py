"""The feature cache: addressed by content, bounded, and the reason that no second epoch runs the diffusion."""

import contextlib
import dataclasses
import os
import shutil
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from clips import make_clip
from diffvqa_export.weights import choose_weights
from training_network import SMALLEST

from diffvqa_rt.engines import Manifest
from diffvqa_rt.errors import TrainingError
from diffvqa_rt.metrics.diffvqa.presets import TINY
from diffvqa_rt.metrics.diffvqa.views import cut_views, make_views
from diffvqa_rt.models.diffvqa.network import DiffVQA, random_network
from diffvqa_rt.models.weights import network_from_state
from diffvqa_rt.training.diffvqa.extraction import EngineExtractor, TorchExtractor, fill_cache
from diffvqa_rt.training.diffvqa.features import FeatureCache
from diffvqa_rt.training.diffvqa.start import with_new_head
from diffvqa_rt.training.entry_cache import CropOfVideo
from diffvqa_rt.video import sample_frames

PLENTY = 10**9


@pytest.fixture(scope="module")
def network():
    return random_network(SMALLEST)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for number in range(4):
        (folder / f"{number}.mp4").write_bytes(make_clip(size=(80 + 8 * number, 72), frames=6))
    return folder


def cache_in(folder, network, *, precision="no", runtime="torch on cpu", max_bytes=PLENTY, **rest):
    return FeatureCache(folder, network, precision=precision, runtime=runtime, max_bytes=max_bytes, **rest)


def entries_of(clips, count=4):
    return [CropOfVideo(clips / f"{number}.mp4") for number in range(count)]


def fill(cache, entries, network, **rest):
    accelerator = Accelerator(cpu=True)
    fill_cache(cache, entries, TorchExtractor(network, accelerator), accelerator, **rest)


class Refusing:
    """An extractor that is not to be asked."""

    precision, runtime, is_for_one_process = "no", "torch on cpu", False

    def __call__(self, views):
        raise AssertionError("the diffusion ran")


@torch.no_grad()
def test_an_entry_is_what_the_extractor_gives_for_what_scoring_sees(tmp_path, network, clips):
    cache, entry = cache_in(tmp_path, network), CropOfVideo(clips / "1.mp4", crop=7)
    fill(cache, [entry], network)
    kept = cache.read(entry)
    views = torch.from_numpy(make_views(sample_frames(entry.path, 2).frames, 64, seed=7))
    assert torch.equal(kept["frames"].float() / 127.5 - 1, views[0])
    z0_hat, features = network.extract(views)
    for name, expected in [("z0_hat", z0_hat), *((f"features_{i}", x) for i, x in enumerate(features))]:
        torch.testing.assert_close(kept[name], expected[0], rtol=1e-3, atol=1e-4)  # kept in float16
        assert kept[name].dtype == torch.float32


def test_entries_are_at_places_of_their_own_wherever_the_network_crops_when_it_scores(tmp_path, network, clips):
    """SPEC §1: at random in training. All seeds have one texture, and every entry would be the same crop."""
    config = dataclasses.replace(SMALLEST, crops=3, crop_placement="texture")
    textured = network_from_state(DiffVQA, config, network.state_dict(), tmp_path)
    cache = cache_in(tmp_path / "cache", textured)
    entries = [CropOfVideo(clips / "3.mp4", crop) for crop in range(3)]
    fill(cache, entries, textured)
    frames = sample_frames(clips / "3.mp4", SMALLEST.frames).frames
    for entry in entries:
        expected = torch.from_numpy(cut_views(frames, SMALLEST.view_size, entry.crop)[0])
        assert torch.equal(cache.read(entry)["frames"], expected)
    assert not torch.equal(cache.read(entries[0])["frames"], cache.read(entries[1])["frames"])
    fill_cache(cache_in(tmp_path / "cache", network), entries, Refusing(), Accelerator(cpu=True))  # the same entries


def test_the_diffusion_runs_once_for_a_content_whatever_its_name_and_whenever_it_is_asked_for(tmp_path, network, clips):
    seen = []
    fill(cache_in(tmp_path / "cache", network), entries_of(clips), network, on_progress=lambda *at: seen.append(at))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    shutil.copy(clips / "2.mp4", tmp_path / "other name.mp4")
    again, accelerator = cache_in(tmp_path / "cache", network), Accelerator(cpu=True)
    fill_cache(again, [*entries_of(clips), CropOfVideo(tmp_path / "other name.mp4")], Refusing(), accelerator)
    with pytest.raises(AssertionError, match="the diffusion ran"):
        fill_cache(again, [CropOfVideo(clips / "2.mp4", crop=1)], Refusing(), accelerator)


@pytest.mark.parametrize("change", ["weights", "steps", "precision", "bytes", "runtime", "decoding", "crop"])
def test_whatever_decides_an_entry_decides_its_address(tmp_path, network, clips, change):
    entry = CropOfVideo(tmp_path / "clip.mp4")
    shutil.copy(clips / "0.mp4", entry.path)
    before = cache_in(tmp_path, network).path(entry)
    other, changed = random_network(SMALLEST), {}
    if change == "weights":
        torch.nn.init.zeros_(other.extractor.controller.conv_in.bias)
    elif change == "steps":
        other.config = dataclasses.replace(SMALLEST, sampler=dataclasses.replace(SMALLEST.sampler, steps=3))
    elif change == "precision":
        changed = {"precision": "bf16"}
    elif change == "runtime":
        changed = {"runtime": "onnx engines 0123"}
    elif change == "decoding":
        changed = {"decoding_version": 1}
    elif change == "crop":
        entry = dataclasses.replace(entry, crop=1)
    else:
        shutil.copy(clips / "1.mp4", entry.path)
    assert cache_in(tmp_path, other, **changed).path(entry) != before


def test_autocast_and_engines_share_no_entry_in_half_precision_nor_in_full(tmp_path, built_engines, clips):
    """The folder's manifest says what its engines are; here of the same network, and twice of other files."""
    network, manifest = choose_weights(TINY, None).load(), Manifest.read(built_engines)
    entry, paths = CropOfVideo(clips / "0.mp4"), []
    for precision, mixed, sha256 in [("fp16", "fp16", "a"), ("fp16", "fp16", "b"), ("fp32", "no", "a")]:
        files = dict.fromkeys(manifest.backends["onnx"].files, sha256)
        record = dataclasses.replace(manifest.backends["onnx"], precision=precision, files=files)
        dataclasses.replace(manifest, backends={"onnx": record, "onnx-cuda": record}).write(tmp_path)
        accelerator = SimpleNamespace(mixed_precision=mixed, device=torch.device("cpu"))
        for extract in (
            EngineExtractor(tmp_path, network, "onnx"),
            EngineExtractor(tmp_path, network, "onnx-cuda"),
            TorchExtractor(network, accelerator),
        ):
            cache = cache_in(tmp_path, network, precision=extract.precision, runtime=extract.runtime)
            paths.append(cache.path(entry))
    # Torch's fp16 is there twice.
    assert paths[2] == paths[5] and len(set(paths)) == len(paths) - 1


def test_engines_run_in_the_main_process_for_all(tmp_path, network, clips):
    cache, asked = cache_in(tmp_path, network), []

    class Engines(TorchExtractor):
        is_for_one_process = True

        def __init__(self, network, process):
            super().__init__(network, process)
            self.index = process.process_index

        def __call__(self, views):
            asked.append(self.index)
            return super().__call__(views)

    for index in (1, 0):
        process = SimpleNamespace(
            num_processes=2, process_index=index, is_main_process=index == 0, mixed_precision="no",
            device=torch.device("cpu"), autocast=contextlib.nullcontext, wait_for_everyone=lambda: None,
        )  # fmt: skip
        fill_cache(cache, entries_of(clips, 2), Engines(network, process), process)
    assert asked == [0, 0] and not cache.missing(entries_of(clips, 2))


def test_a_runs_features_are_others_when_a_video_is(tmp_path, network, clips):
    shutil.copy(clips / "0.mp4", tmp_path / "clip.mp4")
    entries = [CropOfVideo(tmp_path / "clip.mp4"), CropOfVideo(clips / "2.mp4")]
    before = cache_in(tmp_path, network).digest(entries)
    assert before == cache_in(tmp_path, network).digest(entries) != cache_in(tmp_path, network).digest(entries[::-1])
    shutil.copy(clips / "1.mp4", tmp_path / "clip.mp4")
    assert cache_in(tmp_path, network).digest(entries) != before


def test_another_head_shares_the_entries(tmp_path, network, clips):
    head = dataclasses.replace(SMALLEST.head, mlp_width=4)
    other = with_new_head(network, dataclasses.replace(SMALLEST, head=head, score_range=(1.0, 5.0)), seed=1)
    entry = CropOfVideo(clips / "0.mp4")
    assert cache_in(tmp_path, other).path(entry) == cache_in(tmp_path, network).path(entry)


def test_an_entry_takes_the_room_that_was_told(tmp_path, network, clips):
    cache = cache_in(tmp_path, network)
    fill(cache, entries_of(clips, 1), network)
    size = cache.path(entries_of(clips)[0]).stat().st_size
    assert cache.entry_bytes - 8192 <= size <= cache.entry_bytes


def test_what_does_not_fit_is_refused_before_anything_is_made(tmp_path, network, clips):
    cache = cache_in(tmp_path / "cache", network, max_bytes=3 * cache_in(tmp_path, network).entry_bytes)
    with pytest.raises(TrainingError, match=r"the features of 4 files and crops take 0.0 GB, .* --cache-gigabytes"):
        fill(cache, entries_of(clips), network)
    assert not (tmp_path / "cache").exists()


def test_entries_of_other_runs_make_room_the_longest_unused_first(tmp_path, network, clips):
    cache = cache_in(tmp_path, network, max_bytes=3 * cache_in(tmp_path, network).entry_bytes)
    old, kept, wanted, new = entries_of(clips)
    fill(cache, [old, kept, wanted], network)
    for age, entry in enumerate([wanted, kept, old]):
        os.utime(cache.path(entry), (1000 - age, 1000 - age))
    fill(cache, [wanted, new], network)
    assert [cache.path(entry).exists() for entry in (old, kept, wanted, new)] == [False, True, True, True]


def test_processes_make_each_entry_once(tmp_path, network, clips):
    """Each lists what is missing before any writes; here one after the other, as if at once."""

    class Process:
        num_processes, device, mixed_precision = 2, torch.device("cpu"), "no"
        autocast = staticmethod(contextlib.nullcontext)

        def __init__(self, index, cache, entries):
            self.process_index, self.is_main_process = index, index == 0
            self.listed = cache.missing(entries)

        def wait_for_everyone(self):
            pass

    cache, entries = cache_in(tmp_path, network), [*entries_of(clips), entries_of(clips)[0]]
    processes = [Process(index, cache, entries) for index in (0, 1)]
    made = []
    for process in processes:
        patched = cache_in(tmp_path, network)
        patched.missing = lambda _, process=process: process.listed
        before = {entry for entry in entries if cache.path(entry).exists()}
        fill_cache(patched, entries, TorchExtractor(network, process), process)
        made.append({entry for entry in entries if cache.path(entry).exists()} - before)
    assert [len(share) for share in made] == [2, 2] and not cache.missing(entries)


def test_what_a_killed_run_left_makes_room_too(tmp_path, network, clips):
    cache = cache_in(tmp_path, network, max_bytes=2 * cache_in(tmp_path, network).entry_bytes)
    half = tmp_path / "ab" / "cd.safetensors.123.part"
    half.parent.mkdir()
    half.write_bytes(b"\0" * cache.entry_bytes)
    fill(cache, entries_of(clips, 2), network)
    assert not half.exists()


def test_videos_that_cannot_be_decoded_are_named_once_all_others_are_made(tmp_path, network, clips):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"\0" * 500)
    cache, others = cache_in(tmp_path / "cache", network), entries_of(clips, 2)
    with pytest.raises(TrainingError, match=r"1 file could not be decoded; remove them and run again .*broken.mp4"):
        fill(cache, [others[0], CropOfVideo(broken), others[1]], network)
    assert not cache.missing(others)


def test_a_video_that_is_gone_is_one_sentence(tmp_path, network):
    with pytest.raises(TrainingError, match="gone.mp4 cannot be read"):
        fill(cache_in(tmp_path, network), [CropOfVideo(tmp_path / "gone.mp4")], network)


def test_a_damaged_entry_is_one_sentence(tmp_path, network, clips):
    cache, entry = cache_in(tmp_path, network), CropOfVideo(clips / "0.mp4")
    fill(cache, [entry], network)
    cache.path(entry).write_bytes(b"\0" * 100)
    with pytest.raises(TrainingError, match="cannot be read. Run the command again: the file is deleted and rebuilt"):
        cache.read(entry)
    fill(cache, [entry], network)
    cache.read(entry)


def test_features_that_are_not_finite_are_not_kept(tmp_path, clips):
    network = random_network(SMALLEST)
    torch.nn.init.constant_(network.extractor.unet.up_blocks[3].resnets[0].conv2.bias, 1e6)
    cache, entry = cache_in(tmp_path, network), CropOfVideo(clips / "0.mp4")
    with pytest.raises(TrainingError, match=r"0.mp4: its features are not finite"):
        fill(cache, [entry], network)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_engines_extract_what_torch_does(tmp_path, built_engines, clips):
    network, accelerator = choose_weights(TINY, None).load(), Accelerator(cpu=True)
    by_torch, by_engines = TorchExtractor(network, accelerator), EngineExtractor(built_engines, network, "onnx")
    assert by_engines.precision == by_torch.precision == "no"
    views = torch.from_numpy(cut_views(sample_frames(clips / "1.mp4", TINY.frames).frames, TINY.view_size)[0])
    one, other = by_torch(views), by_engines(views)
    assert one.keys() == other.keys() == {"z0_hat", *(f"features_{index}" for index in range(4))}
    for name in one:
        torch.testing.assert_close(other[name], one[name], rtol=1e-3, atol=1e-3 * float(one[name].abs().max()))


def test_engines_of_other_weights_are_refused(built_engines):
    with pytest.raises(TrainingError, match="was built from other weights than the extractor's"):
        EngineExtractor(built_engines, random_network(TINY, seed=1), "onnx")


@pytest.mark.parametrize("changed", [{"steps": 1}, {"variance": "posterior"}])
def test_engines_that_sample_otherwise_are_refused(untrained_engines, changed):
    config = dataclasses.replace(SMALLEST, sampler=dataclasses.replace(SMALLEST.sampler, **changed))
    EngineExtractor(untrained_engines, random_network(SMALLEST), "torch")
    with pytest.raises(TrainingError, match=r"takes 2 steps of .* with the variance beta, and the extractor "):
        EngineExtractor(untrained_engines, random_network(config), "torch")


def test_workers_decode_the_same(tmp_path, network, clips):
    entry = CropOfVideo(clips / "3.mp4")
    one, other = cache_in(tmp_path / "a", network), cache_in(tmp_path / "b", network)
    fill(one, [entry], network)
    fill(other, [entry], network, workers=1)
    assert all(torch.equal(x, other.read(entry)[name]) for name, x in one.read(entry).items())
