"""Training the head on cached features: what a batch holds, what is minimised, and that it learns."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from clips import make_clip
from synthetic_clips import clip_of
from training_network import SMALLEST

from diffvqa_rt.errors import TrainingError
from diffvqa_rt.evaluation.mos_table import MosRow
from diffvqa_rt.metrics.diffvqa.engines import FEATURES
from diffvqa_rt.models.diffvqa.network import Prediction, random_network
from diffvqa_rt.synthetic.clip_table import write_manifest
from diffvqa_rt.synthetic.labelled import LabelledVideo, videos_digest, videos_from_set, with_views
from diffvqa_rt.training.data import videos_from_rows
from diffvqa_rt.training.diffvqa.extraction import TorchExtractor, fill_cache
from diffvqa_rt.training.diffvqa.features import FeatureCache
from diffvqa_rt.training.diffvqa.head import HeadObjective, predict_videos
from diffvqa_rt.training.diffvqa.start import with_new_head
from diffvqa_rt.training.entry_cache import CropOfVideo
from diffvqa_rt.training.loop import FitConfig, fit
from diffvqa_rt.training.opinions import ORDER_MARGIN, OpinionBatches, agreement_scalars, frame_opinion_loss


@pytest.fixture(scope="module")
def network():
    return random_network(SMALLEST)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Seven clips of different content."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(7):
        (folder / f"{number}.mp4").write_bytes(make_clip(size=(72 + 24 * number, 96 - 4 * number), frames=4))
    return [folder / f"{number}.mp4" for number in range(7)]


@pytest.fixture(scope="module")
def cache(network, clips, tmp_path_factory):
    cache = FeatureCache(
        tmp_path_factory.mktemp("cache"), network, precision="no", runtime="torch on cpu", max_bytes=10**9
    )
    entries = [CropOfVideo(path, crop) for path in clips for crop in (0, 1)]
    accelerator = Accelerator(cpu=True)
    fill_cache(cache, entries, TorchExtractor(network, accelerator), accelerator)
    return cache


def labelled(clips):
    return [LabelledVideo(name=path.name, path=path, label=10.0 * n) for n, path in enumerate(clips)]


def ladders(clips):
    """Two ladders of three versions; the second has a label for its pristine clip alone."""
    return [
        LabelledVideo(
            name=f"{name}-{severity}",
            path=clips[3 * index + severity],
            label=90.0 - 20 * severity if index == 0 or severity == 0 else None,
            ladder=name,
            severity=severity,
        )
        for index, name in enumerate(("a", "b"))
        for severity in range(3)
    ]


def batches_of(videos, cache, **changes):
    return OpinionBatches(videos, cache, **{"batch": 2, "crops": 1, "processes": 1, "seed": 0} | changes)


def labels_of(batch):
    return batch["label"].tolist()


def test_an_epoch_shows_each_video_once_in_an_order_of_its_own(clips, cache):
    batches = batches_of(labelled(clips), cache)
    assert batches.steps_per_epoch == 3  # of two videos each; the odd one waits for another epoch
    epochs = [[x for step in range(3 * e, 3 * e + 3) for x in labels_of(batches[step])] for e in range(6)]
    assert all(len(set(epoch)) == 6 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6
    assert {x for epoch in epochs for x in epoch} == {10.0 * n for n in range(7)}


def test_processes_share_an_epoch(clips, cache):
    """Together they see what one process would, crops included."""
    whole = batches_of(labelled(clips), cache, batch=6, crops=2)
    parts = [batches_of(labelled(clips), cache, batch=6, crops=2, processes=2).on_rank(rank) for rank in (0, 1)]
    assert parts[0].steps_per_epoch == whole.steps_per_epoch
    for step in range(3):
        together = {name: torch.cat([part[step][name] for part in parts]) for name in ("label", "frames", "z0_hat")}
        assert all(torch.equal(x, whole[step][name]) for name, x in together.items())


def test_processes_share_pairs(clips, cache):
    whole = batches_of(ladders(clips), cache, batch=4)
    parts = [batches_of(ladders(clips), cache, batch=4, processes=2).on_rank(rank) for rank in (0, 1)]
    for step in range(3):
        assert torch.equal(torch.cat([part[step]["severity"] for part in parts]), whole[step]["severity"])
        assert all(set(part[step]["unit"].tolist()) == {0} for part in parts)


def test_a_batch_holds_what_the_cache_has(clips, cache):
    video = labelled(clips)[3]
    batch = batches_of([video], cache, batch=1)[0]
    kept = cache.read(CropOfVideo(video.path))
    assert all(torch.equal(batch[name][0], tensor) for name, tensor in kept.items())
    seen = [batches_of([video], cache, batch=1, crops=2)[step]["frames"] for step in range(12)]
    crops = [cache.read(CropOfVideo(video.path, crop))["frames"][None] for crop in (0, 1)]
    assert all(any(torch.equal(frames, crop) for frames in seen) for crop in crops)


def test_versions_of_a_scene_come_in_pairs_that_change(clips, cache):
    batches = batches_of(ladders(clips), cache, batch=4)
    pairs = set()
    for step in range(20):
        batch = batches[step]
        for unit in set(batch["unit"].tolist()):
            pairs.add(tuple(sorted(batch["severity"][batch["unit"] == unit].tolist())))
    assert pairs == {(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)}


def test_a_batch_that_cannot_be_made_is_refused(clips, cache):
    with pytest.raises(ValueError, match="batch is 3; expected an even number"):
        batches_of(ladders(clips), cache, batch=3)
    with pytest.raises(ValueError, match="batch is 5, of all processes together; expected a multiple of 2"):
        batches_of(labelled(clips), cache, batch=5, processes=2)
    with pytest.raises(ValueError, match=r"batch is 2, .*; expected a multiple of 4, since versions come in pairs"):
        batches_of(ladders(clips), cache, batch=2, processes=2)
    with pytest.raises(TrainingError, match="7 videos are fewer than a step's 8; lower --batch"):
        batches_of(labelled(clips), cache, batch=8, processes=2)


def test_a_batch_has_the_labels_of_frames_where_they_are_asked_for(clips, cache):
    videos = [replace(video, frame_labels=(video.label, 5.0)) for video in labelled(clips)[:2]]
    videos.append(labelled(clips)[2])
    batch = batches_of(videos, cache, batch=3, frames=2)[0]
    rows = dict(zip(labels_of(batch), batch["frame_labels"].tolist(), strict=True))
    assert rows[0.0] == [0.0, 5.0] and rows[10.0] == [10.0, 5.0] and np.isnan(rows[20.0]).all()
    assert "frame_labels" not in batches_of(videos, cache, batch=3)[0]


class _Scores(torch.nn.Module):
    """The scores of a head, and of its frames, with their weights, where they matter."""

    def __init__(self, scores, frame_scores=None, weights=None):
        super().__init__()
        self.given = [torch.tensor(scores if x is None else x) for x in (scores, frame_scores, weights)]

    def forward(self, z0_hat, features, frames):
        return Prediction(*self.given)


def results(objective, **given):
    """The objective's numbers for two videos."""
    entry = {name: torch.zeros(2, 1) for name in ("z0_hat", *FEATURES, "frames")}
    return {name: float(x) for name, x in objective(**{k: torch.tensor(v) for k, v in given.items()}, **entry).items()}


@pytest.mark.parametrize(
    ("scores", "labels", "l1", "order"),
    [
        # Labels 20 apart and scores 30 apart: nothing to say about the order.
        ([80.0, 50.0], [90.0, 70.0], 0.15, 0.0),
        # Scores 5 apart where the labels are 20.
        ([80.0, 75.0], [90.0, 70.0], 0.075, 0.15),
        # One label: the order by the margin, two steps of severity.
        ([80.0, 85.0], [90.0, float("nan")], 0.1, 2 * ORDER_MARGIN + 0.05),
        # Labels that rise with severity ask for no fall.
        ([80.0, 80.0], [70.0, 90.0], 0.1, 0.0),
    ],
)
def test_the_loss_is_l1_and_a_hinge_on_the_pair(network, scores, labels, l1, order):
    objective = HeadObjective(network)
    objective.trained = _Scores(scores)
    values = results(objective, label=labels, severity=[1, 3], unit=[0, 0])
    assert values == pytest.approx({"l1": l1, "order": order, "loss": l1 + order})


def test_frames_with_labels_of_their_own_are_to_have_them(network):
    objective = HeadObjective(network)
    objective.trained = _Scores([50.0, 50.0], frame_scores=[[40.0, 60.0], [50.0, 50.0]])
    known = [[50.0, 90.0], [torch.nan, torch.nan]]
    values = results(objective, label=[50.0, 50.0], severity=[1, 2], unit=[0, 1], frame_labels=known)
    # Of the two frames that have one, 10 and 30 of a range of 100.
    assert values == pytest.approx({"l1": 0, "order": 0, "frames_l1": 0.2, "loss": 0.2})


def test_weights_that_fall_on_one_frame_cost_their_divergence_from_even_ones(network):
    objective = HeadObjective(network, evenness=0.5)
    objective.trained = _Scores([50.0, 50.0], weights=[[0.5, 0.5], [1.0, 0.0]])
    values = results(objective, label=[50.0, 50.0], severity=[1, 2], unit=[0, 1])
    # Of even weights 0, of one that has all ln 2.
    assert values == pytest.approx({"l1": 0, "order": 0, "unevenness": np.log(2) / 2, "loss": np.log(2) / 4}, abs=1e-6)


def test_videos_of_different_scenes_are_not_ordered(network):
    objective = HeadObjective(network)
    objective.trained = _Scores([10.0, 90.0])
    assert results(objective, label=[torch.nan, torch.nan], severity=[0, 1], unit=[0, 1])["loss"] == 0


def test_frames_are_judged_beside_the_mean_of_them():
    scores, labels = torch.tensor([[0.2, 0.6], [0.5, 0.5]]), torch.tensor([[0.4, 0.8], [torch.nan, torch.nan]])
    values = frame_opinion_loss(scores, labels, torch.tensor([0, 1]), torch.tensor([0, 0]))
    # The better of the pair scores 0.4, the worse 0.5.
    expected = {"l1": 0.2, "frames_l1": 0.2, "order": 0.1 + ORDER_MARGIN, "loss": 0.5 + ORDER_MARGIN}
    assert {name: float(x) for name, x in values.items()} == pytest.approx(expected)


def test_the_head_learns_labels_and_order_and_nothing_else_moves(clips, tmp_path):
    # Without what slows learning by heart, and without the scan, whose gradient has tests of its own.
    tcab = replace(SMALLEST.head.tcab, views="none")
    config = replace(SMALLEST, head=replace(SMALLEST.head, tcab=tcab, dropout=0.0, fused_channels=16))
    torch.manual_seed(0)
    network = with_new_head(random_network(SMALLEST), config, seed=0)
    extractor = {name: tensor.clone() for name, tensor in network.extractor.state_dict().items()}
    videos = [*ladders(clips), *labelled(clips[6:])]
    # An untrained extractor gives every video nearly the same.
    cache = FeatureCache(tmp_path / "cache", network, precision="no", runtime="torch on cpu", max_bytes=10**9)
    shapes = {"z0_hat": config.latent_shape, **{f"features_{i}": s for i, s in enumerate(config.feature_shapes)}}
    for path in clips:
        tensors = {name: torch.randn(4, *shape) + torch.randn(shape) for name, shape in shapes.items()}
        cache.write(CropOfVideo(path), tensors | {"frames": torch.zeros(4, 3, 64, 64, dtype=torch.uint8)})
    fit(
        HeadObjective(network),
        batches_of(videos, cache, batch=6),
        FitConfig(steps=100, learning_rate=3e-3, weight_decay=0.0, schedule="cosine"),
        tmp_path,
        describes={},
        accelerator=Accelerator(cpu=True),
    )
    scores = predict_videos(network, videos, cache)
    assert scores[0] > scores[1] > scores[2] and scores[3] > scores[4] > scores[5]
    assert np.abs(scores[:4] - [90, 70, 50, 90]).max() < 8
    assert all(torch.equal(tensor, extractor[name]) for name, tensor in network.extractor.state_dict().items())


def test_every_part_of_the_head_learns(clips, cache, tmp_path):
    network = random_network(SMALLEST)
    before = {name: tensor.clone() for name, tensor in network.head.named_parameters()}
    config = FitConfig(steps=2, learning_rate=1e-3, weight_decay=0.0, gradient_checkpointing=True)
    batches = batches_of(labelled(clips), cache, batch=4)
    objective = HeadObjective(network)
    assert {type(block) for block in objective.modules()} >= set(objective.recomputed)
    fit(objective, batches, config, tmp_path, describes={}, accelerator=Accelerator(cpu=True))
    still = {name for name, tensor in network.head.named_parameters() if torch.equal(tensor, before[name])}
    # The VQA token is the first: in the last block's forward scan there is nothing before it that could decay.
    assert still == {f"{view}.tcab.layers.0.mixer.A_log" for view in ("semantic", "distortion")}


def test_predictions_are_those_of_the_network_that_is_deployed(network, clips, cache):
    entry = cache.read(CropOfVideo(clips[2]))
    with torch.no_grad():
        expected = network(entry["frames"][None].float() / 127.5 - 1).score
    predicted = predict_videos(network, [labelled(clips)[2]], cache)
    assert predicted[0] == pytest.approx(float(expected), abs=0.01)  # features in float16


def test_agreement_counts_each_video_once_and_those_with_a_label():
    videos = [LabelledVideo(name=str(n), path=None, label=label) for n, label in enumerate([1.0, 2.0, 4.0, None])]
    scalars = agreement_scalars(np.array([1.0, 2.0, 3.0, -9.0, 1.0]), [*videos, videos[0]])
    assert scalars["srcc"] == pytest.approx(1) and 0.9 < scalars["plcc"] < 1
    assert agreement_scalars(np.array([1.0, 2.0]), videos[:2]) == {}


def test_rows_of_a_table_are_videos_with_opinions(tmp_path):
    row = MosRow(name="one", video=tmp_path / "one.mp4", mos=3.5)
    assert videos_from_rows([row]) == [LabelledVideo(name="one", path=tmp_path / "one.mp4", label=3.5)]


def test_each_ladder_of_a_set_begins_at_its_scenes_pristine_clip(tmp_path):
    made = [
        clip_of("s", "reference", 0, [98.0, 100.0], split="train"),
        *(clip_of("s", "h264", severity, [40.0, 60.0], split="train") for severity in (1, 2)),
        *(clip_of("s", "judder", severity, split="train") for severity in (1, 2)),
        clip_of("other", "reference", 0),
        clip_of("other", "h264", 1),
    ]
    write_manifest(tmp_path, made)
    videos = videos_from_set(tmp_path, "train")
    pristine, damaged = (99.0, (98.0, 100.0)), (50.0, (40.0, 60.0))
    # Of judder only the order is known, whatever VMAF says of it.
    assert [(video.ladder, video.severity, (video.label, video.frame_labels)) for video in videos] == [
        ("s/h264", 0, pristine), ("s/h264", 1, damaged), ("s/h264", 2, damaged),
        ("s/judder", 0, pristine), ("s/judder", 1, (None, None)), ("s/judder", 2, (None, None)),
    ]  # fmt: skip
    assert videos[0].path == tmp_path / "scenes/s/reference-0.mp4"
    assert [video.path.name for video in with_views(videos)[:2]] == ["reference-0.npy", "h264-1.npy"]
    assert [video.severity for video in videos_from_set(tmp_path, "validation")] == [0, 1]


def test_a_set_without_the_split_is_one_sentence(tmp_path):
    write_manifest(tmp_path, [clip_of("s", "reference", 0), clip_of("s", "h264", 1)])
    with pytest.raises(TrainingError, match="has no clips in its train split"):
        videos_from_set(tmp_path, "train")


def test_another_label_is_another_digest(clips):
    videos = labelled(clips)
    changed = [*videos[:-1], replace(videos[-1], label=1.0)]
    assert videos_digest(videos) == videos_digest(labelled(clips)) != videos_digest(changed)
