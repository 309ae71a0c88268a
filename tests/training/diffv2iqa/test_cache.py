"""The cache of restored crops: what scoring sees, to half a grey level; made once; never another restorer's."""

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from restoring_network import SMALLEST

from diffvqa_rt.errors import TrainingError
from diffvqa_rt.metric import Request
from diffvqa_rt.metrics.diffv2iqa.engines import PIXELS
from diffvqa_rt.metrics.diffv2iqa.metric import METRIC
from diffvqa_rt.models.diffv2iqa.network import random_network
from diffvqa_rt.models.diffv2iqa.restoration import RestorationStep, restore
from diffvqa_rt.training.diffv2iqa.cache import view_of
from diffvqa_rt.training.entry_cache import CropOfVideo
from diffvqa_rt.training.filling import fill_entries
from diffvqa_rt.video import sample_frames


def fill(cache, restoring, entries, accelerator, make=None):
    fill_entries(cache, entries, partial(view_of, cache.config), make or restoring, accelerator)


def entries_of(paths, crops=2):
    return [CropOfVideo(path, crop) for path in paths for crop in range(crops)]


def test_an_entry_is_a_crop_of_scorings_and_its_restoration(network, stills, open_cache, accelerator):
    cache, restoring = open_cache(network)
    fill(cache, restoring, entries_of(stills[:1], 3), accelerator)
    arrays, _ = METRIC.prepare(SMALLEST, sample_frames(stills[0], 1).frames, Request(crops=5))
    views = arrays["x"]
    assert not np.array_equal(views[1], views[2])
    for crop in range(3):
        entry = cache.read(CropOfVideo(stills[0], crop))
        assert {name: (x.dtype, x.shape) for name, x in entry.items()} == dict.fromkeys(
            ("x", "y_0", "y_t1", "y_t2"), (torch.uint8, (3, 32, 32))
        )
        assert np.array_equal(entry["x"].numpy(), views[crop])
        x = torch.from_numpy(PIXELS.normalize(views[crop][None]))
        restored = restore(RestorationStep(network.restorer, SMALLEST), x, SMALLEST)
        for name, expected in restored._asdict().items():
            kept = entry[name].float() / 127.5 - 1
            assert (kept - expected[0].clamp(-1, 1)).abs().max() <= 0.5 / 127.5 + 1e-5


def test_a_cache_goes_on_where_it_stopped(network, stills, open_cache, accelerator):
    cache, restoring = open_cache(network)
    entries, made = entries_of(stills[:3]), []

    class StoppedError(Exception):
        pass

    def counted(view, stop_at=None):
        if len(made) == stop_at:
            raise StoppedError
        made.append(view)
        return restoring(view)

    with pytest.raises(StoppedError):
        fill(cache, restoring, entries, accelerator, partial(counted, stop_at=2))
    assert len(cache.missing(entries)) == 4
    kept = {entry: cache.path(entry).read_bytes() for entry in entries[:2]}
    fill(cache, restoring, entries, accelerator, counted)
    assert len(made) == 6 and cache.missing(entries) == []
    assert all(cache.path(entry).read_bytes() == content for entry, content in kept.items())
    fill(cache, restoring, entries, accelerator, counted)
    assert len(made) == 6


def other_restorer(network):
    other = random_network(network.config)
    with torch.no_grad():
        other.restorer.unet.conv_in.bias[0] += 1e-3
    return other


def of_config(**changes):
    return lambda network: random_network(dataclasses.replace(network.config, **changes))


@pytest.mark.parametrize(
    "change",
    [
        other_restorer,
        of_config(kept=(1, 3)),
        of_config(view="resize"),
        of_config(sampler=dataclasses.replace(SMALLEST.sampler, noise_seed=1)),
        of_config(sampler=dataclasses.replace(SMALLEST.sampler, train_steps=5, steps=5)),
    ],
    ids=["weights", "kept", "view", "noise", "steps"],
)
def test_crops_of_another_restorer_are_not_taken_for_its_own(network, stills, open_cache, accelerator, change):
    cache, restoring = open_cache(network)
    [entry] = entries = entries_of(stills[:1], 1)
    fill(cache, restoring, entries, accelerator)
    other, _ = open_cache(change(network))
    assert other.missing(entries) == entries and other.digest(entries) != cache.digest(entries)
    with pytest.raises(TrainingError, match="cannot be read. Run the command again"):
        other.read(entry)
    assert cache.missing(entries) == []


def test_branches_and_range_do_not_matter_to_it(network, stills, open_cache):
    same = random_network(dataclasses.replace(SMALLEST, score_range=(1.0, 5.0), branches="vcg"), seed=0)
    same.restorer.load_state_dict(network.restorer.state_dict())
    assert open_cache(same)[0].digest(entries_of(stills)) == open_cache(network)[0].digest(entries_of(stills))


def test_a_set_that_does_not_fit_says_so_before_anything_is_restored(network, stills, open_cache, accelerator):
    cache, restoring = open_cache(network, gigabytes=0)
    with pytest.raises(
        TrainingError, match=r"the restored crops of 4 files and crops take 0.0 GB, .* --cache-gigabytes"
    ):
        fill(cache, restoring, entries_of(stills[:2]), accelerator)


def test_pictures_that_cannot_be_decoded_are_named_at_the_end(network, stills, open_cache, accelerator, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\0" * 100)
    cache, restoring = open_cache(network)
    entries = entries_of([tmp_path / "broken.png", stills[0]], 1)
    with pytest.raises(TrainingError, match=r"1 file could not be decoded; .*restored crops of the others.*broken.png"):
        fill(cache, restoring, entries, accelerator)
    assert cache.missing(entries) == entries[:1]
