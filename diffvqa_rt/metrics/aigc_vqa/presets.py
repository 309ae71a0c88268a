"""The named networks."""

from pathlib import Path

from diffvqa_rt.metrics.aigc_vqa.config import (
    AdapterConfig,
    AigcVqaConfig,
    ConvNextConfig,
    SwinConfig,
    TextConfig,
    VisionConfig,
)

PAPER = AigcVqaConfig(
    name="paper",
    frames=16,
    view_size=224,
    grid=7,
    swin=SwinConfig(width=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), window=(8, 7, 7)),
    convnext=ConvNextConfig(widths=(96, 192, 384, 768), depths=(3, 3, 9, 3)),
    head_width=64,
    vision=VisionConfig(width=1024, depth=24, heads=16),
    adapter=AdapterConfig(bottleneck=384),
    text=TextConfig(
        width=768,
        layers=12,
        heads=12,
        vocabulary=30_524,
        vocabulary_sha256="07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        positions=512,
    ),
    reward=(1024, 128, 64, 16),
)
"""The paper's network: Video Swin-T, ConvNeXt-T, ViT-L/16 and BERT-base."""

TINY = AigcVqaConfig(
    name="tiny",
    frames=8,
    view_size=224,
    grid=7,
    swin=SwinConfig(width=32, depths=(2, 2, 2, 2), heads=(1, 2, 4, 8), window=(4, 7, 7)),
    convnext=ConvNextConfig(widths=(32, 64, 128, 256), depths=(3, 3, 3, 3)),
    head_width=32,
    vision=VisionConfig(width=128, depth=4, heads=2),
    adapter=AdapterConfig(bottleneck=48),
    text=TextConfig(
        width=128,
        layers=3,
        heads=2,
        vocabulary=1024,
        vocabulary_sha256="9a4ad949470627e894b7144f28911ed075e40a82fb27a64c7bd9fcf010c6a9a2",
        positions=64,
    ),
    reward=(64, 16),
)
"""The same geometry at a size that two CPU cores score in half a second: the default, and what the tests run."""

TINY_VOCABULARY = Path(__file__).with_name("tiny-vocab.txt")
"""The vocabulary of `tiny`, which `diffvqa_rt.synthetic.prompted.vocabulary` writes."""


def find_vocabulary(config: AigcVqaConfig, given: Path | None) -> Path:
    """The file of the words that a network spells prompts with: the one given, or the package's where that is it.

    Raises:
        ValueError: none is given and the package has another one, or what is given is no file.
    """
    if given is None and config.text.vocabulary_sha256 == TINY.text.vocabulary_sha256:
        return TINY_VOCABULARY
    if given is None:
        raise ValueError(
            f"{config.name} spells prompts with a vocabulary that the package does not bring; give --vocabulary the "
            "vocab.txt of bert-base-uncased, which any folder of BERT or BLIP in transformers' layout has"
        )
    if not given.is_file():
        raise ValueError(f"vocabulary is {given}, which is no file")
    return given


PRESETS = {preset.name: preset for preset in (TINY, PAPER)}
