"""One video, one score: whatever the runtime, the process, the batch or the order.

The network is the smallest that has every part. That no bit of `tiny`'s engines depends on threads or neighbours is in
`engines/test_manifest.py`; their distance from torch is in the build's parity report.
"""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from clips import make_clip

from diffvqa_rt import Scorer, ScoringFailure, VideoScore
from diffvqa_rt.metrics.diffvqa.metric import METRIC

LOW, HIGH = 0.0, 100.0


@pytest.fixture(scope="module")
def scorer(small_engines) -> Scorer:
    return Scorer.open(small_engines)


@pytest.fixture(scope="module")
def clips(tmp_path_factory, clip) -> list[Path]:
    """Four different videos; the third cannot be scored."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "small.mp4").write_bytes(make_clip(size=(320, 240)))
    (folder / "broken.mp4").write_bytes(b"no video at all")
    (folder / "wide.mkv").write_bytes(make_clip("libx264", "matroska", size=(400, 120), frames=5))
    return [clip, folder / "small.mp4", folder / "broken.mp4", folder / "wide.mkv"]


def scores_by_source(results) -> dict[str, VideoScore | ScoringFailure]:
    return {result.source: result for result in results}


def assert_same(actual: VideoScore, expected: VideoScore) -> None:
    assert actual.score == expected.score
    assert actual.frame_scores == expected.frame_scores
    assert actual.frame_weights == expected.frame_weights


def test_a_score_carries_what_it_takes_to_trust_it(scorer, clip):
    result = scorer.score(clip)
    assert LOW < result.score < HIGH and result.score_range == (LOW, HIGH)
    frames = scorer.manifest.config.frames
    assert len(result.frame_scores) == len(result.frame_weights) == len(result.timestamps_seconds) == frames
    assert sum(result.frame_weights) == pytest.approx(1)
    assert np.dot(result.frame_scores, result.frame_weights) == pytest.approx(result.score, abs=1e-4)
    assert tuple(result.stage_seconds) == METRIC.stages
    assert result.video.codec == "h264" and result.video.width == 720
    assert result.model == "tiny, 2 steps" and len(result.weights_sha256) == 64
    json.dumps(result.as_dict())


def test_engines_and_torch_give_the_same_score(scorer, small_engines, clips):
    reference = Scorer.open(small_engines, backend="torch")
    for path in (clips[0], clips[1], clips[3]):
        ours, theirs = scorer.score(path), reference.score(path)
        assert ours.backend == "onnx" and theirs.backend == "torch"
        assert abs(ours.score - theirs.score) < 1e-3 * (HIGH - LOW)


def test_different_videos_get_different_scores(scorer, clips):
    assert len({scorer.score(path).score for path in (clips[0], clips[1], clips[3])}) == 3


def test_batch_and_order_change_no_bit(scorer, clips):
    one_by_one = scores_by_source(scorer.score_many(clips))
    assert [type(r).__name__ for r in one_by_one.values()] == [
        "VideoScore",
        "VideoScore",
        "ScoringFailure",
        "VideoScore",
    ]
    for batch, order in ((2, clips), (3, clips[::-1]), (4, clips)):
        results = list(scorer.score_many(order, batch=batch))
        assert [result.source for result in results] == [str(path) for path in order]
        for result in results:
            if isinstance(result, VideoScore):
                assert_same(result, one_by_one[result.source])


def test_two_processes_agree_on_every_bit(scorer, small_engines, clip):
    program = (
        "import sys; from diffvqa_rt import Scorer; result = Scorer.open(sys.argv[1]).score(sys.argv[2]); "
        "print(result.score.hex(), *(s.hex() for s in result.frame_scores))"
    )
    command = [sys.executable, "-c", program, str(small_engines), str(clip)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    result = scorer.score(clip)
    assert printed == [value.hex() for value in (result.score, *result.frame_scores)]


def test_the_scoring_path_never_imports_torch(small_engines, clip):
    program = (
        "import sys; from diffvqa_rt import Scorer, cli; Scorer.open(sys.argv[1]).score(sys.argv[2]); "
        "print(sorted({'torch', 'onnx', 'diffusers', 'diffvqa_kernels', 'numba', 'triton'} & sys.modules.keys()))"
    )
    command = [sys.executable, "-c", program, str(small_engines), str(clip)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_path_bytes_and_still_array_sources(scorer, clip):
    by_path, by_bytes = scorer.score(clip), scorer.score(clip.read_bytes())
    assert_same(by_bytes, by_path)
    assert (by_path.source, by_bytes.source) == (str(clip), "<bytes>")
    still = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    assert_same(scorer.score(still), scorer.score(np.stack([still] * 9)))


def test_seed_and_crops(scorer, clip):
    first = scorer.score(clip)
    assert scorer.score(clip, seed=1).score != first.score
    several = scorer.score(clip, crops=3)
    assert several.crop_scores[0] == first.score
    assert several.score == pytest.approx(np.mean(several.crop_scores))
    assert several.crop_spread == max(several.crop_scores) - min(several.crop_scores) > 0
    assert several.frame_weights == first.frame_weights  # the semantic view has no crop
    assert np.dot(several.frame_scores, several.frame_weights) == pytest.approx(several.score, abs=1e-4)
    assert first.crop_spread == 0


@pytest.mark.parametrize(
    "options",
    [
        *({"batch": 0}, {"batch": 2.0}, {"batch": "2"}, {"batch": True}),
        *({"crops": 0}, {"crops": 70000}, {"crops": 1.0}, {"crops": True}),
        *({"seed": -1}, {"seed": 2**63}, {"seed": 1.5}, {"seed": np.float64(1)}, {"seed": None}),
    ],
)
def test_a_bad_option_is_refused_by_name(scorer, clip, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} is .*expected "):
        list(scorer.score_many([clip], **options))


def test_a_bad_array_does_not_cost_the_others(scorer, clip):
    wrong, right = scorer.score_many([np.zeros((4, 50, 50, 3)), clip], batch=2)
    assert isinstance(wrong, ScoringFailure) and "float64; expected uint8" in wrong.error and wrong.source == "<array>"
    assert isinstance(right, VideoScore)


def test_one_video_is_not_taken_for_many(scorer, clip):
    for source in (str(clip), clip, b"bytes", np.zeros((2, 8, 8, 3), np.uint8)):
        with pytest.raises(TypeError, match=r"expected several videos, or use score\(\)"):
            next(scorer.score_many(source))


def test_no_clip_is_changed(clip):
    """The example is what the committed numbers were measured on."""
    assert hashlib.sha256(clip.read_bytes()).hexdigest()[:16] == "1de1a2b13e618cec"


def test_engines_that_take_two_videos_at_a_time_give_the_same_scores(scorer, clip):
    class TwoAtATime:
        max_videos = 2

        def __init__(self, engine):
            self.spec, self._engine = engine.spec, engine
            self.batches = []

        def __call__(self, inputs, outputs=None):
            self.batches.append(len(next(iter(inputs.values()))))
            return self._engine(inputs, outputs)

    limited = {name: TwoAtATime(engine) for name, engine in scorer._engines.items()}
    result = Scorer(scorer.manifest, limited, "onnx").score(clip, crops=5)
    assert limited["head"].batches == [2, 2, 1]
    assert result.crop_scores == scorer.score(clip, crops=5).crop_scores
