"""The encoders against the libraries whose weights they take: torchvision, timm and transformers."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from vision_oracles import import_timm, import_torchvision

from diffvqa_rt.metrics.diffv2iqa.config import PICTURES
from diffvqa_rt.metrics.diffv2iqa.presets import PAPER, TINY
from diffvqa_rt.models.diffv2iqa.checkpoints import load_resnet, load_vit
from diffvqa_rt.models.diffv2iqa.resnet import ResNet
from diffvqa_rt.models.diffv2iqa.vit import ViT

IMAGENET_MEAN, IMAGENET_STD = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]


def outputs_of(layers: list[nn.Module], run: nn.Module, pictures: Tensor) -> list[Tensor]:
    """The outputs of layers of a library's network while it runs."""
    outputs: list[Tensor] = []
    hooks = [layer.register_forward_hook(lambda _, inputs, output: outputs.append(output)) for layer in layers]
    run(pictures)
    for hook in hooks:
        hook.remove()
    return outputs


def read_all(vit: ViT, pictures: Tensor) -> list[Tensor]:
    blocks = tuple(range(len(vit.blocks)))
    return vit({"x": pictures}, {"x": blocks})["x"]


def assert_same(actual: list[Tensor], expected: list[Tensor]) -> None:
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_resnet_50_is_torchvisions(tmp_path):
    torch.manual_seed(0)
    theirs = import_torchvision().models.resnet50(weights=None).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.0)
    ours = ResNet(PAPER.vda).eval()
    shapes = {name: tensor.shape for name, tensor in theirs.state_dict().items() if not name.startswith("fc.")}
    assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == shapes
    assert len(shapes) == 318
    torch.save(theirs.state_dict(), tmp_path / "resnet50.pth")
    load_resnet(ours, tmp_path / "resnet50.pth")
    pixels = torch.rand(2, 3, 64, 64)
    layers = [theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4]
    assert_same(ours(2 * pixels - 1), outputs_of(layers, theirs, (pixels - IMAGENET_MEAN) / IMAGENET_STD))


@torch.inference_mode()
def test_a_vit_of_torchvisions_gives_its_own_maps(tmp_path):
    """torchvision has no B/8: a small one of its class, with one block more than runs."""
    torch.manual_seed(0)
    theirs = (
        import_torchvision()
        .models.VisionTransformer(image_size=64, patch_size=8, num_layers=4, num_heads=3, hidden_dim=96, mlp_dim=384)
        .eval()
    )
    nn.init.normal_(theirs.class_token)
    torch.save(theirs.state_dict(), tmp_path / "vit.pth")
    ours = ViT(TINY.vit, grid=8, blocks=3).eval()
    load_vit(ours, tmp_path / "vit.pth")
    pictures = torch.rand(2, 3, 64, 64) * 2 - 1
    after = outputs_of(list(theirs.encoder.layers)[:3], theirs, pictures)
    assert_same(read_all(ours, pictures), [tokens[:, 1:] for tokens in after])


@pytest.mark.slow  # 330 MB of weights
@torch.inference_mode()
def test_vit_b8_is_timms(tmp_path):
    torch.manual_seed(0)
    theirs = import_timm().create_model("vit_base_patch8_224", pretrained=False).eval()
    nn.init.normal_(theirs.cls_token)
    torch.save(theirs.state_dict(), tmp_path / "vit.pth")
    ours = ViT(PAPER.vit, PAPER.grid, PAPER.vit_blocks).eval()
    load_vit(ours, tmp_path / "vit.pth")
    left = {name.split(".")[0] for name in theirs.state_dict().keys() - ours.state_dict().keys()}
    assert left == {"blocks", "norm", "head"}
    pictures = torch.rand(1, 3, 224, 224) * 2 - 1
    after = outputs_of(list(theirs.blocks), theirs, pictures)
    read = ours(dict.fromkeys(PICTURES, pictures), PAPER.vcg.blocks)
    for name, blocks in PAPER.vcg.blocks.items():
        assert_same(read[name], [after[block][:, 1:] for block in blocks])


@torch.inference_mode()
def test_a_vit_of_timms_gives_its_own_maps(tmp_path):
    vit = (
        import_timm()
        .models.vision_transformer.VisionTransformer(
            img_size=64, patch_size=8, embed_dim=96, depth=4, num_heads=3, num_classes=10
        )
        .eval()
    )
    nn.init.normal_(vit.cls_token)
    torch.save({"state_dict": vit.state_dict()}, tmp_path / "vit.pth")
    ours = ViT(TINY.vit, grid=8, blocks=3).eval()
    load_vit(ours, tmp_path / "vit.pth")
    pictures = torch.rand(2, 3, 64, 64) * 2 - 1
    after = outputs_of(list(vit.blocks)[:3], vit, pictures)
    assert_same(read_all(ours, pictures), [tokens[:, 1:] for tokens in after])


@torch.inference_mode()
def test_a_vit_of_transformers_gives_its_own_maps(tmp_path):
    """DINO's layout, scale and eps. transformers is a dependency of the tests."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs = transformers.ViTModel(
        transformers.ViTConfig(
            image_size=64,
            patch_size=8,
            hidden_size=96,
            num_hidden_layers=4,
            num_attention_heads=3,
            intermediate_size=384,
            layer_norm_eps=1e-12,
        )
    ).eval()
    for name, parameter in theirs.named_parameters():
        if "cls_token" in name or name.endswith("bias"):
            nn.init.normal_(parameter, std=0.3)
    theirs.save_pretrained(tmp_path)
    mean, std = (tuple(values.flatten().tolist()) for values in (IMAGENET_MEAN, IMAGENET_STD))
    ours = ViT(dataclasses.replace(TINY.vit, mean=mean, std=std, eps=1e-12), grid=8, blocks=3).eval()
    load_vit(ours, tmp_path / "model.safetensors")
    pixels = torch.rand(2, 3, 64, 64)
    after = theirs((pixels - IMAGENET_MEAN) / IMAGENET_STD, output_hidden_states=True).hidden_states[1:4]
    assert_same(read_all(ours, 2 * pixels - 1), [tokens[:, 1:] for tokens in after])
