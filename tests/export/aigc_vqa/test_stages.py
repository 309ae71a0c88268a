"""AIGC-VQA's declaration for the export: graphs, half precision, foreign weights, prompts, the comparison."""

import dataclasses

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from diffvqa_export.aigc_vqa.stages import EXPORT, STAGES
from diffvqa_export.backends.onnx_from_module import onnx_from_module
from diffvqa_export.export_stage import ExportJob
from diffvqa_export.precision import write_precision
from diffvqa_export.weights import choose_weights
from prompted_network import SMALL
from torch import nn

from diffvqa_rt.metrics.aigc_vqa.engines import engine_specs
from diffvqa_rt.metrics.aigc_vqa.presets import PAPER, TINY_VOCABULARY
from diffvqa_rt.models.aigc_vqa.network import AigcVqa, random_network
from diffvqa_rt.models.aigc_vqa.stages import stage_modules
from diffvqa_rt.models.weights import save_weights, weights_sha256

SIZES = {"videos": 3, "frames": 5}


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual - expected).norm() / expected.norm()).item()


def half_precision(name: str, precision: str) -> tuple[nn.Module, nn.Module]:
    """A stage in float32 and in another precision."""
    full, half = (stage_modules(random_network(SMALL))[name] for _ in range(2))
    write_precision(STAGES[name], half, precision)
    return full, half


def inputs_of(name: str) -> dict[str, torch.Tensor]:
    """Three videos' inputs, and of an engine that takes any number of frames five."""
    generator = torch.Generator().manual_seed(1)
    inputs = {}
    for spec in engine_specs(SMALL)[name].inputs:
        shape = [SIZES[size] if isinstance(size, str) else size for size in spec.shape]
        if spec.name == "token_mask":
            inputs[spec.name] = (torch.arange(shape[1]) < torch.tensor([[3], [9], [6]])).long()
        elif spec.name == "token_ids":
            inputs[spec.name] = torch.randint(5, SMALL.text.vocabulary, shape, generator=generator)
        else:
            inputs[spec.name] = torch.rand(shape, generator=generator) * 2 - 1
    return inputs


@pytest.mark.parametrize("name", STAGES)
@torch.inference_mode()
def test_a_graph_is_the_stage_for_any_number_of_videos_and_frames(tmp_path, name):
    module = stage_modules(random_network(SMALL, seed=2))[name]
    path = tmp_path / f"{name}.onnx"
    spec = engine_specs(SMALL)[name]
    onnx_from_module(
        ExportJob(stage=STAGES[name], module=module, config=SMALL, spec=spec, path=path, provenance="a network")
    )
    inputs = inputs_of(name)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = {name: tensor.numpy() for name, tensor in inputs.items()}
    (expected,) = module(*inputs.values())
    (actual,) = session.run(None, given)
    assert relative_error(torch.from_numpy(actual), expected) < STAGES[name].tolerances["fp32"].relative
    for row in range(3):
        (alone,) = session.run(None, {name: array[row : row + 1] for name, array in given.items()})
        assert np.array_equal(alone[0], actual[row])
    operators = [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]
    # The bias of the windows is a constant: nothing is left to look up or to compare.
    assert not {"Einsum", "Equal", "Where", "GatherND", "Attention"} & set(operators)
    assert operators.count("Softmax") == {"technical": 8, "alignment": 2}.get(name, 0)
    assert operators.count("MultiHeadAttention") == {"vision": 2, "alignment": 2}.get(name, 0)


@pytest.mark.parametrize(("precision", "rounding"), [("fp16", 2**-11), ("bf16", 2**-8)])
@pytest.mark.parametrize("name", STAGES)
@torch.inference_mode()
def test_half_precision_says_nearly_the_same(name, precision, rounding):
    full, half = half_precision(name, precision)
    inputs = tuple(inputs_of(name).values())
    (expected,), (actual,) = full(*inputs), half(*inputs)
    assert actual.dtype == torch.float32
    assert rounding / 50 < relative_error(actual, expected) < STAGES[name].tolerances[precision].relative


def test_norms_stems_the_adapters_convolution_embeddings_and_heads_stay_in_float32():
    for name in STAGES:
        _, half = half_precision(name, "fp16")
        full = {part.rpartition(".")[0] for part, tensor in half.named_parameters() if tensor.dtype == torch.float32}
        norms = {path for path, part in half.named_modules() if isinstance(part, nn.LayerNorm)}
        assert norms <= full
        assert (
            full - norms
            == {
                "technical": {"branch.backbone.patch_embed.proj", "branch.head.fc_hid", "branch.head.fc_last"},
                "aesthetic": {
                    "branch.backbone.downsample_layers.0.0",
                    *("branch.head.fc_hid", "branch.head.fc_last"),
                    *(f"branch.backbone.stages.{i}.{j}" for i, depth in enumerate((3, 1, 2, 1)) for j in range(depth)),
                },  # a block's own parameter is its gamma
                "vision": {"branch", "branch.patch_embed.proj"},  # the class token and the positions
                "alignment": {
                    "adapter.conv",
                    "text_encoder.embeddings.word_embeddings",
                    "text_encoder.embeddings.position_embeddings",
                    *(f"reward.layers.{index}" for index in (0, 2, 3)),
                },
            }[name]
        )


def test_the_bias_of_the_windows_is_in_half_precision():
    _, half = half_precision("technical", "fp16")
    tables = STAGES["technical"].folds.tables(half)
    assert len(tables) == 8 and {table.dtype for table in tables} == {torch.float16}
    assert tables[1].min() < -90 and all(table.isfinite().all() for table in tables)


@pytest.fixture
def checkpoints(tmp_path):
    """A folder of foreign weights for SMALL, and the network that they were taken from."""
    network = random_network(SMALL, seed=7)
    folder = tmp_path / "pretrained"
    folder.mkdir()
    names = {"technical.backbone": "technical_backbone", "aesthetic.backbone": "aesthetic_backbone"}
    names |= {"technical.head": "technical_head", "aesthetic.head": "aesthetic_head"}
    names |= {"vision": "blip.visual_encoder", "text_encoder": "blip.text_encoder", "reward": "mlp"}
    weights = {
        f"{theirs}{name.removeprefix(ours)}": tensor
        for name, tensor in network.state_dict().items()
        for ours, theirs in names.items()
        if name.startswith(f"{ours}.")
    }
    dover = {name: tensor for name, tensor in weights.items() if name.startswith(("technical", "aesthetic"))}
    torch.save(dover, folder / "DOVER.pth")
    torch.save({name: x for name, x in weights.items() if name not in dover}, folder / "ImageReward.pt")
    return folder, network


def test_a_folder_of_checkpoints_fills_what_the_paper_starts_from(checkpoints):
    """The adapter is in none: it starts as the identity."""
    folder, taken_from = checkpoints
    chosen = choose_weights(SMALL, folder, metric="aigc_vqa")
    assert chosen.source == "pretrained: DOVER, ImageReward; the rest random" and not chosen.is_trained
    network, expected = chosen.load(), taken_from.state_dict()
    parts = ("technical.", "aesthetic.", "vision.", "text_encoder.")
    assert all(torch.equal(x, expected[name]) for name, x in network.state_dict().items() if name.startswith(parts))
    tokens = torch.randn(1, 4, 17, 32)
    assert torch.equal(network.adapter(tokens), tokens)


def test_a_folder_with_a_part_of_them_leaves_the_rest_random(checkpoints):
    folder, taken_from = checkpoints
    (folder / "DOVER.pth").unlink()
    chosen = choose_weights(SMALL, folder, metric="aigc_vqa")
    assert chosen.source == "pretrained: ImageReward; the rest random"
    network, rest = chosen.load(), random_network(SMALL)
    assert torch.equal(network.vision.pos_embed, taken_from.vision.pos_embed)
    assert torch.equal(network.technical.head.fc_hid.weight, rest.technical.head.fc_hid.weight)


def test_dover_and_image_reward_make_the_others_unnecessary(checkpoints):
    folder, _ = checkpoints
    for name in ("BLIP.pth", "Swin.pth", "ConvNeXt.pth"):
        (folder / name).write_bytes(b"not read")
    assert choose_weights(SMALL, folder, metric="aigc_vqa").source.startswith("pretrained: DOVER, ImageReward;")
    choose_weights(SMALL, folder, metric="aigc_vqa").load()


def test_a_folder_without_checkpoints_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="has none of DOVER, ImageReward, BLIP, Swin, ConvNeXt .*; expected DOVER for"):
        choose_weights(SMALL, tmp_path, metric="aigc_vqa")


def test_our_own_file_is_read_for_what_it_holds(tmp_path):
    network = AigcVqa(dataclasses.replace(SMALL, adapter=None))
    save_weights(network, tmp_path / "w.safetensors", is_trained=True)
    chosen = choose_weights(SMALL, tmp_path / "w.safetensors", metric="aigc_vqa")
    assert chosen.config.adapter is None and chosen.is_trained
    assert weights_sha256(chosen.load()) == weights_sha256(network)


def test_parity_is_measured_on_the_clip_with_two_prompts(clip):
    sources = EXPORT.parity_sources(SMALL, clip)
    assert list(sources) == [
        "frog.mp4, “a green toy frog on a wooden table”",
        "frog.mp4, “two red trains at night”",
    ]
    assert all(len(source.frames.frames) == 4 for source in sources.values())


def test_the_vocabulary_is_the_packages_or_the_one_that_is_given(tmp_path):
    assert EXPORT.prompt_files(SMALL, None) == {"vocab.txt": TINY_VOCABULARY}
    given = tmp_path / "words.txt"
    with pytest.raises(ValueError, match=r"vocabulary is .*words\.txt, which is no file"):
        EXPORT.prompt_files(PAPER, given)
    given.touch()
    assert EXPORT.prompt_files(PAPER, given) == {"vocab.txt": given}
    with pytest.raises(ValueError, match="paper spells prompts with a vocabulary that the package does not bring"):
        EXPORT.prompt_files(PAPER, None)
