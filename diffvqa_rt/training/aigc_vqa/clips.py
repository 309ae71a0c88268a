"""Videos and their prompts as the network takes them, made anew each time."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from diffvqa_rt.decoding import shared_decoder
from diffvqa_rt.errors import TrainingError
from diffvqa_rt.metric import Request
from diffvqa_rt.metrics.aigc_vqa.config import AigcVqaConfig
from diffvqa_rt.metrics.aigc_vqa.metric import METRIC
from diffvqa_rt.synthetic.labelled import LabelledVideo
from diffvqa_rt.text.wordpiece import WordPiece
from diffvqa_rt.training.entry_cache import CropOfVideo

DRAWS = 2**31
"""The seeds of the pieces' places that training draws from, for each video and epoch one."""


class PromptedClips:
    """Gives what scoring would see of a video with a seed, `CropOfVideo.crop`, and its prompt.

    `fragments` and `resized` [T, 3, S, S] uint8; `token_ids` and `token_mask` [L] int64 where it has a prompt. Nothing
    is kept: the pieces are from other places each epoch, so that all of the frames would have to be.

    Args:
        words: spells the videos' prompts; None leaves them out.
    """

    def __init__(self, config: AigcVqaConfig, videos: Sequence[LabelledVideo], words: WordPiece | None) -> None:
        """Spells the prompts. Raises InputError where one has nothing to spell."""
        self._config = config
        length = config.text.prompt_tokens
        self._tokens = {
            video.path: words.encode(video.prompt, length)
            for video in videos
            if words is not None and video.prompt is not None
        }

    def read(self, entry: CropOfVideo) -> dict[str, Tensor]:
        """The tensors of a video. Raises VideoDecodeError where it cannot be decoded."""
        prepared = shared_decoder().prepare(entry.path, METRIC, self._config, Request(seed=entry.crop))
        tensors = {name: torch.from_numpy(rows[0]) for name, rows in prepared.arrays.items()}
        if (tokens := self._tokens.get(entry.path)) is not None:
            tensors |= {"token_ids": torch.from_numpy(tokens.ids), "token_mask": torch.from_numpy(tokens.mask)}
        return tensors


def with_opinions(videos: Sequence[LabelledVideo], *, needs_prompts: bool) -> list[LabelledVideo]:
    """The videos that have an opinion, each once, in no ladder.

    Raises:
        TrainingError: one has no prompt, and they are to have one.
    """
    by_path: dict[Path, LabelledVideo] = {}
    for video in videos:
        if video.label is not None:
            by_path.setdefault(
                video.path,
                LabelledVideo(
                    name=video.name, path=video.path, label=video.label, content=video.content, prompt=video.prompt
                ),
            )
    kept = list(by_path.values())
    without = [video.name for video in kept if video.prompt is None]
    if needs_prompts and without:
        raise TrainingError(
            f"{len(without)} of {len(kept)} videos have no prompt, the first of them {without[0]}; give the table a "
            "column `prompt`, or train stage 1, which needs none"
        )
    return kept
