"""The whole network: its sizes, what its branches see, what training changes, and its cut into stages."""

import dataclasses

import pytest
import torch
from torch import nn

from diffvqa_rt.metrics.aigc_vqa.engines import engine_specs
from diffvqa_rt.metrics.aigc_vqa.presets import PAPER, TINY
from diffvqa_rt.models.aigc_vqa.network import AigcVqa, random_network
from diffvqa_rt.models.aigc_vqa.stages import stage_modules
from diffvqa_rt.models.weights import weights_sha256


def count(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


@pytest.mark.parametrize(
    ("config", "technical", "aesthetic", "vision", "alignment", "whole"),
    [
        (PAPER, 28_127_901, 28_090_401, 303_301_632, 143_694_433, 503_214_367),
        (TINY, 2_339_253, 2_404_385, 917_120, 955_217, 6_615_975),
    ],
    ids=["paper", "tiny"],
)
def test_parameters_are_as_many_as_the_specification_says(config, technical, aesthetic, vision, alignment, whole):
    with torch.device("meta"):
        network = AigcVqa(config)
    assert count(network.technical) == technical
    assert count(network.aesthetic) == aesthetic
    assert count(network.vision) == vision
    assert count(network.adapter, network.text_encoder, network.reward) == alignment
    assert count(network) == whole


def test_parameters_of_the_papers_parts_are_as_many_as_the_specification_says():
    with torch.device("meta"):
        network = AigcVqa(PAPER)
    backbones = (network.technical.backbone, network.aesthetic.backbone)
    assert [count(part) for part in backbones] == [28_078_620, 28_041_120]
    assert [count(part) for part in (network.adapter, network.text_encoder, network.reward)] == [
        *(789_376, 141_977_088, 927_969)
    ]


@torch.inference_mode()
def test_shapes_and_scales_are_the_engines(network, small, given):
    prediction = network(*given)
    assert [tuple(values.shape) for values in prediction] == [(3, 2, 2, 2), (3, 2, 2, 2), (3,)]
    for values in prediction:
        assert values.dtype == torch.float32 and values.isfinite().all() and values.std() > 1e-3


@pytest.mark.parametrize(
    ("branch", "mean", "std"),
    [
        ("technical", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("aesthetic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("vision", (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    ],
)
def test_each_branch_has_the_pixels_scale_that_its_weights_were_trained_with(network, branch, mean, std):
    pixels = torch.rand(2, 4, 3, 5, 5)
    expected = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(getattr(network, branch).pixels(2 * pixels - 1), expected)


@torch.inference_mode()
def test_every_video_is_alone_in_a_batch(network, given):
    """As far as float32 goes: torch sums a product of one row in another order than of three. Engines do not."""
    together = network(*given)
    for row in range(3):
        alone = network(*(values[row : row + 1] for values in given))
        for one, all_of_them in zip(alone, together, strict=True):
            torch.testing.assert_close(one[0], all_of_them[row], rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_frames_do_not_see_each_other_in_the_vision_encoder(network, given):
    tokens = network.vision(given.resized)
    assert tokens.shape == (3, 4, 17, 32)
    torch.testing.assert_close(network.vision(given.resized[:, 1:2]), tokens[:, 1:2])


@torch.inference_mode()
def test_padding_changes_nothing(network, given):
    """The ids under it, and how much of it there is."""
    tokens = network.vision(given.resized)
    expected = network.align(tokens, given.token_ids, given.token_mask)
    other_ids = torch.where(given.token_mask == 1, given.token_ids, 7)
    assert not torch.equal(other_ids, given.token_ids)
    torch.testing.assert_close(network.align(tokens, other_ids, given.token_mask), expected, rtol=1e-6, atol=1e-6)
    shorter = network.align(tokens[:1], given.token_ids[:1, :3], given.token_mask[:1, :3])
    torch.testing.assert_close(shorter, expected[:1], rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_the_alignment_score_depends_on_the_prompt_and_on_the_video(network, given):
    tokens = network.vision(given.resized)
    expected = network.align(tokens, given.token_ids, given.token_mask)
    one_word = given.token_ids.clone()
    one_word[:, 1] += 1
    assert ((network.align(tokens, one_word, given.token_mask) - expected).abs() > 1e-3).all()
    assert ((network.align(tokens.flip(0), given.token_ids, given.token_mask) - expected).abs()[::2] > 1e-4).all()


@torch.inference_mode()
def test_the_adapter_starts_as_the_identity(small):
    torch.manual_seed(2)
    adapter = AigcVqa(small).adapter
    tokens = torch.randn(2, 4, 17, 32)
    assert torch.equal(adapter(tokens), tokens)


@torch.inference_mode()
def test_the_adapter_joins_neighbouring_frames_at_each_patch(network):
    """Its kernel is (3, 1, 1). Class tokens pass."""
    tokens = torch.randn(1, 4, 17, 32)
    changed = tokens.clone()
    changed[0, 0, 5] += 1
    differs = (network.adapter(changed) != network.adapter(tokens)).any(-1)[0]
    assert differs.nonzero().tolist() == [[0, 5], [1, 5]]
    assert torch.equal(network.adapter(tokens)[:, :, 0], tokens[:, :, 0])


@torch.inference_mode()
def test_a_network_without_adapter_reads_the_frames_tokens_as_they_are(small, network, given):
    """Table 5. The other weights keep their shapes."""
    without = AigcVqa(dataclasses.replace(small, adapter=None)).eval()
    weights = {name: x for name, x in network.state_dict().items() if not name.startswith("adapter.")}
    without.load_state_dict(weights)
    starting = AigcVqa(small).eval()
    starting.load_state_dict({**starting.state_dict(), **weights})
    assert torch.equal(without(*given).alignment_score, starting(*given).alignment_score)
    assert not torch.equal(without(*given).alignment_score, network(*given).alignment_score)


def test_random_weights_are_the_same_for_a_seed_and_hide_nothing(small, network):
    assert weights_sha256(random_network(small, 5)) == weights_sha256(network)
    assert weights_sha256(random_network(small, 6)) != weights_sha256(network)
    hidden = [name for name, values in network.named_parameters() if values.abs().max() < 1e-3]
    assert not [name for name in hidden if "bias" not in name.rpartition(".")[2]]


def test_blocks_are_counted_through_the_stages_in_the_order_of_the_input():
    with torch.device("meta"):
        network = AigcVqa(PAPER)
    names = {id(part): name for name, part in [*network.named_modules(), *network.named_parameters()]}
    blocks = {
        encoder: [(tuple(names[id(part)] for part in before), names[id(block)]) for before, block in found]
        for encoder, found in network.encoder_blocks().items()
    }
    assert {encoder: len(found) for encoder, found in blocks.items()} == {
        "technical": 12,
        "aesthetic": 18,
        "vision": 24,
        "text": 12,
    }
    assert blocks["technical"][8] == ((), "technical.backbone.layers.2.blocks.4")
    assert blocks["aesthetic"][12] == ((), "aesthetic.backbone.stages.2.6")
    before = {encoder: [parts for parts, _ in found if parts] for encoder, found in blocks.items()}
    assert before == {
        "technical": [
            ("technical.backbone.patch_embed",),
            *((f"technical.backbone.layers.{stage}.downsample",) for stage in range(3)),
        ],
        "aesthetic": [(f"aesthetic.backbone.downsample_layers.{stage}",) for stage in range(4)],
        "vision": [("vision.patch_embed", "vision.cls_token", "vision.pos_embed")],
        "text": [("text_encoder.embeddings",)],
    }
    assert blocks["technical"][4][0] == ("technical.backbone.layers.1.downsample",)


def test_all_that_is_not_a_block_or_before_one_is_a_norm_an_adapter_or_a_head(network):
    of_encoders = {
        id(parameter)
        for found in network.encoder_blocks().values()
        for before, block in found
        for part in (*before, block)
        for parameter in ([part] if isinstance(part, nn.Parameter) else part.parameters())
    }
    others = {name for name, parameter in network.named_parameters() if id(parameter) not in of_encoders}
    norms = {"technical.backbone.norm", "aesthetic.backbone.norm", "vision.norm"}
    left = {name for name in others if name.rpartition(".")[0] not in norms}
    assert all(name.startswith(("technical.head.", "aesthetic.head.", "adapter.", "reward.")) for name in left)


def test_training_drops_and_every_parameter_learns(small, given):
    network = random_network(small, 5).train()
    first, second = network(*given), network(*given)
    for one, other in zip(first, second, strict=True):
        assert not torch.equal(one, other)
    sum(values.sum() for values in first).backward()
    still = {name for name, values in network.named_parameters() if values.grad is None or not values.grad.any()}
    # Softmax does not see what is added to all of a query's scores.
    assert not {name for name in still if not name.endswith("key.bias")}


def test_dropout_and_stochastic_depth_are_where_the_specification_has_them():
    with torch.device("meta"):
        network = AigcVqa(PAPER)
    rates = [module.p for module in network.reward.layers if isinstance(module, nn.Dropout)]
    assert rates == [0.2, 0.2, 0.1]
    assert [name for name, module in network.reward.layers.named_children() if isinstance(module, nn.Linear)] == list(
        "02467"
    )
    assert network.technical.head.dropout.p == network.aesthetic.head.dropout.p == 0.5
    assert [block.drop_path.rate for block in network.vision.blocks][::23] == [0.0, pytest.approx(0.1)]
    layer = network.text_encoder.encoder.layer[3]
    assert {layer.output.dropout.p, layer.attention.self.dropout, layer.crossattention.self.dropout} == {0.1}


@torch.inference_mode()
def test_the_stages_are_the_network(network, small, given):
    before = weights_sha256(network)
    stages = stage_modules(network)
    assert list(stages) == list(engine_specs(small))
    (technical_map,) = stages["technical"](given.fragments)
    (aesthetic_map,) = stages["aesthetic"](given.resized)
    (frame_tokens,) = stages["vision"](given.resized)
    (alignment_score,) = stages["alignment"](frame_tokens, given.token_ids, given.token_mask)
    for actual, expected in zip((technical_map, aesthetic_map, alignment_score), network(*given), strict=True):
        assert torch.equal(actual, expected)
    assert not any(module.training for stage in stages.values() for module in stage.modules())
    assert weights_sha256(network) == before


def test_a_folded_stage_has_constants_for_tables_and_shares_the_rest(network):
    stage = stage_modules(network)["technical"]
    shared = {id(parameter) for parameter in network.technical.parameters()}
    assert all(id(parameter) in shared for parameter in stage.parameters())
    assert not any("bias_table" in name for name, _ in stage.named_parameters())
    assert any("bias_table" in name for name, _ in network.technical.named_parameters())


def test_the_alignment_stage_takes_any_numbers_for_tokens(network, small):
    """Anyone may call a server's stage, and a GPU's gather reads whatever memory it is told to."""
    stage = stage_modules(network)["alignment"]
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randn(1, small.frames, small.frame_tokens, small.vision.width, generator=generator)
    length = small.text.prompt_tokens
    wild, most = torch.tensor([[-(2**40), 2**40] + [5] * (length - 2)]), small.text.vocabulary - 1
    tame = wild.clamp(0, most)
    assert tame[0, :2].tolist() == [0, most]
    mask = torch.ones(1, length, dtype=torch.int64)
    expected = stage(tokens, tame, mask)[0]
    torch.testing.assert_close(stage(tokens, wild, mask * 2**50)[0], expected, rtol=0, atol=0)
