"""Our own files, and the encoders' checkpoints in others' layouts, by name."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from diffvqa_rt.metrics.diffv2iqa.presets import TINY
from diffvqa_rt.models.diffv2iqa.checkpoints import load_resnet, load_vit, load_weights, read_description
from diffvqa_rt.models.diffv2iqa.network import random_network
from diffvqa_rt.models.diffv2iqa.resnet import ResNet
from diffvqa_rt.models.diffv2iqa.vit import ViT
from diffvqa_rt.models.weights import save_weights, weights_sha256

BLOCKS = 3


@torch.inference_mode()
def test_our_own_file_gives_back_the_network(tmp_path, small, network, pictures):
    path = tmp_path / "w.safetensors"
    save_weights(network, path, is_trained=True)
    assert read_description(path) == (small, True)
    loaded, is_trained = load_weights(path)
    assert is_trained and not loaded.training
    assert weights_sha256(loaded) == weights_sha256(network)
    # What no file has, since it follows from the sizes, is there too.
    for actual, expected in zip(loaded(**pictures), network(**pictures), strict=True):
        assert torch.equal(actual, expected)


def test_a_file_of_half_the_size_has_the_weights_rounded(tmp_path, network):
    save_weights(network, tmp_path / "w.safetensors", is_trained=False, dtype=torch.float16)
    loaded, is_trained = load_weights(tmp_path / "w.safetensors")
    assert not is_trained
    weight, exact = loaded.vcg.reduce1[0].weight, network.vcg.reduce1[0].weight
    assert weight.dtype == torch.float32 and torch.equal(weight, exact.half().float())


@pytest.mark.parametrize(
    ("write", "complaint"),
    [
        (lambda path: None, "no such weights file"),
        (lambda path: path.write_bytes(b"\x80\x04 a pickle"), "never read from pickles"),
        (lambda path: save_file({"x": torch.zeros(1)}, path), "does not describe a DiffV²IQA network; expected a file"),
        (
            lambda path: save_file({"x": torch.zeros(1)}, path, {"config": json.dumps({"name": "diffvqa"})}),
            "does not describe a DiffV²IQA network .*of another metric",
        ),
        (
            lambda path: save_file({"x": torch.zeros(1)}, path, {"config": json.dumps(TINY.as_dict())}),
            "does not fit this network: .*Missing key",
        ),
    ],
    ids=["missing", "pickle", "foreign", "of_another_metric", "incomplete"],
)
def test_a_bad_weights_file_is_refused_in_a_sentence(tmp_path, write, complaint):
    path = tmp_path / "w.safetensors"
    write(path)
    with pytest.raises(ValueError, match=complaint):
        load_weights(path)


def vit_of(grid: int = 8, blocks: int = BLOCKS, seed: int = 0) -> ViT:
    """A ViT in which no tensor is like another."""
    torch.manual_seed(seed)
    vit = ViT(TINY.vit, grid, blocks)
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter)
    return vit.eval()


NORMS = ("weight", "bias")


def timm_layout(vit: ViT) -> dict[str, torch.Tensor]:
    return {
        **vit.state_dict(),
        "norm.weight": torch.ones(96),
        "norm.bias": torch.zeros(96),
        "head.weight": torch.ones(9),
    }


def torchvision_layout(vit: ViT, mlp: tuple[str, str] = ("mlp.0", "mlp.3")) -> dict[str, torch.Tensor]:
    weights = vit.state_dict()
    out = {"class_token": weights["cls_token"], "encoder.pos_embedding": weights["pos_embed"]}
    out |= {f"conv_proj.{kind}": weights[f"patch_embed.proj.{kind}"] for kind in NORMS}
    out |= {"encoder.ln.weight": torch.ones(96), "encoder.ln.bias": torch.ones(96), "heads.head.weight": torch.ones(9)}
    for block in range(len(vit.blocks)):
        ours, theirs = f"blocks.{block}", f"encoder.layers.encoder_layer_{block}"
        for kind in NORMS:
            out[f"{theirs}.ln_1.{kind}"] = weights[f"{ours}.norm1.{kind}"]
            out[f"{theirs}.ln_2.{kind}"] = weights[f"{ours}.norm2.{kind}"]
            out[f"{theirs}.self_attention.in_proj_{kind}"] = weights[f"{ours}.attn.qkv.{kind}"]
            out[f"{theirs}.self_attention.out_proj.{kind}"] = weights[f"{ours}.attn.proj.{kind}"]
            out[f"{theirs}.{mlp[0]}.{kind}"] = weights[f"{ours}.mlp.fc1.{kind}"]
            out[f"{theirs}.{mlp[1]}.{kind}"] = weights[f"{ours}.mlp.fc2.{kind}"]
    return out


def transformers_layout(vit: ViT, prefix: str = "") -> dict[str, torch.Tensor]:
    weights = vit.state_dict()
    out = {"embeddings.cls_token": weights["cls_token"], "embeddings.position_embeddings": weights["pos_embed"]}
    for kind in NORMS:
        out[f"embeddings.patch_embeddings.projection.{kind}"] = weights[f"patch_embed.proj.{kind}"]
        out[f"layernorm.{kind}"] = torch.ones(96)
        out[f"pooler.dense.{kind}"] = torch.ones(96)
    for block in range(len(vit.blocks)):
        ours, theirs = f"blocks.{block}", f"encoder.layer.{block}"
        for kind in NORMS:
            out[f"{theirs}.layernorm_before.{kind}"] = weights[f"{ours}.norm1.{kind}"]
            out[f"{theirs}.layernorm_after.{kind}"] = weights[f"{ours}.norm2.{kind}"]
            for name, part in zip(("query", "key", "value"), weights[f"{ours}.attn.qkv.{kind}"].chunk(3), strict=True):
                out[f"{theirs}.attention.attention.{name}.{kind}"] = part
            out[f"{theirs}.attention.output.dense.{kind}"] = weights[f"{ours}.attn.proj.{kind}"]
            out[f"{theirs}.intermediate.dense.{kind}"] = weights[f"{ours}.mlp.fc1.{kind}"]
            out[f"{theirs}.output.dense.{kind}"] = weights[f"{ours}.mlp.fc2.{kind}"]
    out = {f"{prefix}{name}": tensor for name, tensor in out.items()}
    return out | {"classifier.weight": torch.ones(9)} if prefix else out


LAYOUTS = {
    "timm": timm_layout,
    "torchvision": torchvision_layout,
    "old_torchvision": lambda vit: torchvision_layout(vit, mlp=("mlp.linear_1", "mlp.linear_2")),
    "transformers": transformers_layout,
    "transformers_classifier": lambda vit: transformers_layout(vit, prefix="vit."),
}


@pytest.mark.parametrize("extension", ["pth", "safetensors"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_vit_loads_from_every_layout(tmp_path, layout, extension):
    """The checkpoint has two blocks more than run."""
    source, target = vit_of(blocks=BLOCKS + 2), vit_of(seed=1)
    weights = {name: tensor.contiguous().clone() for name, tensor in layout(source).items()}
    path = tmp_path / f"vit.{extension}"
    if extension == "pth":
        torch.save(weights, path)
    else:
        save_file(weights, path)
    load_vit(target, path)
    expected = source.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in target.state_dict().items())


def test_position_embeddings_of_another_resolution_are_interpolated(tmp_path):
    """Bicubic over the grid; the class token's own is kept."""
    source, target = vit_of(grid=8), vit_of(grid=12, seed=1)
    torch.save(timm_layout(source), tmp_path / "vit.pth")
    load_vit(target, tmp_path / "vit.pth")
    assert torch.equal(target.pos_embed[:, 0], source.pos_embed[:, 0])
    grid = source.pos_embed[:, 1:].reshape(1, 8, 8, 96).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, size=12, mode="bicubic").permute(0, 2, 3, 1).reshape(1, 144, 96)
    torch.testing.assert_close(target.pos_embed[:, 1:], expected)
    assert torch.equal(target.blocks[2].mlp.fc2.weight, source.blocks[2].mlp.fc2.weight)


def test_half_precision_loads(tmp_path):
    source, target = vit_of(grid=8), vit_of(grid=12, seed=1)
    torch.save({name: tensor.half() for name, tensor in timm_layout(source).items()}, tmp_path / "vit.pth")
    load_vit(target, tmp_path / "vit.pth")
    assert target.cls_token.dtype == torch.float32
    assert torch.equal(target.cls_token, source.cls_token.half().float())


@pytest.mark.parametrize("wrap", [lambda w: w, lambda w: {"state_dict": w, "epoch": 3}], ids=["flat", "wrapped"])
def test_a_resnet_loads_from_torchvisions_layout(tmp_path, small, wrap):
    source, target = random_network(small, 1).resnet, ResNet(small.vda)
    weights = {**source.state_dict(), "fc.weight": torch.ones(1000, 512), "fc.bias": torch.ones(1000)}
    torch.save(wrap(weights), tmp_path / "resnet.pth")
    load_resnet(target, tmp_path / "resnet.pth")
    expected = source.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in target.state_dict().items())


def test_a_resnet_from_before_batch_norms_counted_loads(tmp_path, small):
    """torchvision's first files."""
    source, target = random_network(small, 1).resnet, ResNet(small.vda)
    weights = {name: x for name, x in source.state_dict().items() if not name.endswith("num_batches_tracked")}
    save_file(weights, tmp_path / "resnet.safetensors")
    load_resnet(target, tmp_path / "resnet.safetensors")
    assert torch.equal(target.bn1.running_var, source.bn1.running_var)


def changed(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """A ViT's checkpoint with other tensors, or without those that are None."""
    weights = timm_layout(vit_of()) | {name.replace("__", "."): tensor for name, tensor in changes.items()}
    return {name: tensor for name, tensor in weights.items() if tensor is not None}


def without_a_query() -> dict[str, torch.Tensor]:
    weights = transformers_layout(vit_of())
    del weights["encoder.layer.1.attention.attention.key.weight"]
    return weights


@pytest.mark.parametrize(
    ("write", "complaint"),
    [
        (lambda path: None, "is not a ViT checkpoint"),
        (lambda path: path.write_bytes(b"not a checkpoint"), "is not a ViT checkpoint"),
        (lambda path: torch.save(torch.zeros(3), path), "is not a ViT checkpoint: it holds a Tensor"),
        (lambda path: torch.save(vit_of(), path), "is not a ViT checkpoint: .*eights"),
        (
            lambda path: torch.save(timm_layout(vit_of(blocks=2)), path),
            "it has no blocks.2.norm1.weight, .* and 9 more",
        ),
        (lambda path: torch.save(changed(cls_token=None), path), "does not fit this network: it has no cls_token$"),
        (lambda path: torch.save(changed(dist_token=torch.ones(1)), path), "this network has no dist_token$"),
        (
            lambda path: torch.save(changed(blocks__0__ls1__gamma=torch.ones(96)), path),
            "this network has no blocks.0.ls1.gamma$",
        ),
        (lambda path: torch.save(changed(pos_embed=torch.zeros(1, 8, 96)), path), "does not fit .*pos_embed"),
        (
            lambda path: torch.save(changed(patch_embed__proj__weight=torch.zeros(96, 3, 16, 16)), path),
            "does not fit .*size mismatch for patch_embed.proj.weight",
        ),
        (
            lambda path: torch.save(without_a_query(), path),
            "has no blocks.1.attn.qkv.weight, and this network has no blocks.1.attn.query.weight, ",
        ),
    ],
    ids=[
        *("missing", "garbage", "bare_tensor", "pickled_module", "too_few_blocks", "no_class_token", "distilled"),
        *("layer_scale", "no_square_grid", "other_patches", "no_key"),
    ],
)
def test_a_bad_vit_checkpoint_is_refused_in_a_sentence(tmp_path, write, complaint):
    path = tmp_path / "vit.pth"
    write(path)
    with pytest.raises(ValueError, match=complaint) as refusal:
        load_vit(vit_of(), path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"bn1.running_mean": None}, "it has no bn1.running_mean$"),
        ({"layer1.1.conv1.weight": torch.ones(1)}, "this network has no layer1.1.conv1.weight$"),
        ({"conv1.weight": torch.ones(16, 3, 3, 3)}, "size mismatch for conv1.weight"),
    ],
    ids=["missing", "deeper", "other_stem"],
)
def test_a_bad_resnet_checkpoint_is_refused_in_a_sentence(tmp_path, small, change, complaint):
    weights = ResNet(small.vda).state_dict() | change
    path = tmp_path / "resnet.pth"
    torch.save({name: tensor for name, tensor in weights.items() if tensor is not None}, path)
    with pytest.raises(ValueError, match=f"{path.name} does not fit this network: .*{complaint}"):
        load_resnet(ResNet(small.vda), path)


def test_a_layout_that_nobody_knows_keeps_its_names(tmp_path):
    torch.save({"transformer.h.0.attn.weight": torch.ones(1)}, tmp_path / "vit.pth")
    sentence = (
        "vit.pth does not fit this network: it has no cls_token, pos_embed, patch_embed.proj.weight and 37 more, and "
        r"this network has no transformer.h.0.attn.weight$"
    )
    with pytest.raises(ValueError, match=sentence):
        load_vit(vit_of(), tmp_path / "vit.pth")
