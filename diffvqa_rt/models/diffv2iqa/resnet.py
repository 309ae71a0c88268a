"""The frozen ResNet of the VDA under torchvision's state-dict names, without its classifier (§III-D).

He et al. 2016 with the stride in the 3×3 convolution, torchvision's v1.5.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from diffvqa_rt.metrics.diffv2iqa.config import VdaConfig
from diffvqa_rt.models.pixels import IMAGENET_MEAN, IMAGENET_STD, PixelScaling

_EXPANSION = 4


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolution, each with BatchNorm, and a shortcut."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = _EXPANSION * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.bn1(self.conv1(x)))
        hidden = F.relu(self.bn2(self.conv2(hidden)))
        return F.relu(self.bn3(self.conv3(hidden)) + self.downsample(x))


class ResNet(nn.Module):
    """Pictures [B, 3, S, S] in [−1, 1] → the outputs of the four stages, [B, C_i, S / 4 … S / 32, …], finest first."""

    def __init__(self, config: VdaConfig) -> None:
        super().__init__()
        self.pixels = PixelScaling(IMAGENET_MEAN, IMAGENET_STD)
        channels = config.resnet_width
        self.conv1 = nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        for stage, blocks in enumerate(config.resnet_blocks):
            width = config.resnet_width * 2**stage
            layer = nn.Sequential()
            for index in range(blocks):
                layer.append(Bottleneck(channels, width, stride=2 if stage and not index else 1))
                channels = _EXPANSION * width
            self.add_module(f"layer{stage + 1}", layer)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, pictures: Tensor) -> list[Tensor]:
        hidden = F.relu(self.bn1(self.conv1(self.pixels(pictures))))
        hidden = F.max_pool2d(hidden, 3, stride=2, padding=1)
        maps = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            hidden = layer(hidden)
            maps.append(hidden)
        return maps
