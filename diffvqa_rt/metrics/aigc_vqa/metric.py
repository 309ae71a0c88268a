"""The declaration of AIGC-VQA."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from numpy.typing import NDArray

from diffvqa_rt.chain import Call, Chain
from diffvqa_rt.errors import ScoreWarning
from diffvqa_rt.metric import Metric, PreparedPrompt, PromptFacts, PromptReading, ReadPrompt, Request
from diffvqa_rt.metrics.aigc_vqa.config import AigcVqaConfig
from diffvqa_rt.metrics.aigc_vqa.engines import engine_specs
from diffvqa_rt.metrics.aigc_vqa.fusion import fuse, result_specs
from diffvqa_rt.metrics.aigc_vqa.presets import PRESETS
from diffvqa_rt.metrics.aigc_vqa.views import cut_fragments, piece_places, shrink
from diffvqa_rt.specs import TensorSpec
from diffvqa_rt.text.wordpiece import WordPiece
from diffvqa_rt.video import VideoInfo
from diffvqa_rt.video.crops import Region, RgbFrame, scaling_warnings

NAME = "aigc_vqa"
VISUAL = "aigc_vqa_visual"
"""The chain of a request without a prompt."""

VOCABULARY = "vocab.txt"
"""The file of an engine folder that prompts are read with."""


def _inputs(config: AigcVqaConfig) -> tuple[TensorSpec, ...]:
    views = ("videos", config.frames, 3, config.view_size, config.view_size)
    return tuple(TensorSpec(name, "uint8", views) for name in ("fragments", "resized"))


def _prepare(
    config: AigcVqaConfig, frames: Sequence[RgbFrame], request: Request
) -> tuple[dict[str, NDArray], tuple[Region, ...]]:
    places = piece_places(config, request.seed, request.settled_crops)
    arrays = {"fragments": cut_fragments(config, frames, places), "resized": shrink(config, frames)[None]}
    height, width, _ = frames[0].shape
    # Pieces are from everywhere.
    return arrays, ((0, 0, width, height),) * request.settled_crops


def _warnings(config: AigcVqaConfig, info: VideoInfo) -> tuple[ScoreWarning, ...]:
    return scaling_warnings(info.width, info.height, config.view_size)


def _chains(config: AigcVqaConfig) -> Mapping[str, Chain]:
    # The first three read nothing of each other.
    visual = (
        Call(engine="technical", inputs=("fragments",), outputs=("technical_map",)),
        Call(engine="aesthetic", inputs=("resized",), outputs=("aesthetic_map",)),
    )
    alignment = (
        Call(engine="vision", inputs=("resized",), outputs=("frame_tokens",)),
        Call(
            engine="alignment",
            inputs=("frame_tokens", "token_ids", "token_mask"),
            outputs=("alignment_score",),
        ),
    )
    return {NAME: visual + alignment, VISUAL: visual}


def _prompt_inputs(config: AigcVqaConfig) -> tuple[TensorSpec, ...]:
    tokens = ("videos", config.text.prompt_tokens)
    return tuple(TensorSpec(name, "int64", tokens) for name in ("token_ids", "token_mask"))


def _open_prompts(config: AigcVqaConfig, folder: Path) -> ReadPrompt:
    words = WordPiece.read(folder / VOCABULARY, config.text.vocabulary_sha256)
    length = config.text.prompt_tokens

    def read(prompt: str) -> PreparedPrompt:
        tokens = words.encode(prompt, length)
        sentence = f"its prompt has {tokens.count:,} tokens, and the network reads the first {length}"
        return PreparedPrompt(
            facts=PromptFacts(text=prompt, tokens=tokens.count, is_truncated=tokens.is_truncated),
            arrays={"token_ids": tokens.ids[None], "token_mask": tokens.mask[None]},
            warnings=(ScoreWarning("prompt-truncated", sentence),) if tokens.is_truncated else (),
        )

    return read


METRIC = Metric(
    name=NAME,
    title="AIGC-VQA",
    config_from_dict=AigcVqaConfig.from_dict,
    presets=PRESETS,
    is_temporal=True,
    options=frozenset({"crops", "patch_maps", "prompt"}),
    frames=lambda config: config.frames,
    crops=lambda config, frames: 1,
    inputs=_inputs,
    prepare=_prepare,
    warnings=_warnings,
    engines=engine_specs,
    chains=_chains,
    choose=lambda request: VISUAL if request.prompt is None else NAME,
    results=lambda config, chain: result_specs(config, has_prompt=chain == NAME),
    finish=lambda config, outputs, frames: fuse(config, outputs),
    prompts=PromptReading(
        inputs=_prompt_inputs,
        files=lambda config: {VOCABULARY: config.text.vocabulary_sha256},
        open=_open_prompts,
    ),
)
