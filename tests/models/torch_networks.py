"""PyTorch networks with the layer names of the RobustBench and TRADES repositories, any width."""

from collections import OrderedDict

import torch
from torch import nn
from torch.nn.functional import relu


def conv(inputs: int, outputs: int, side: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, side, stride, padding=side // 2, bias=False)


class Basic(nn.Module):
    """Convolve, normalize, activate."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv(outputs, outputs, 3), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x):
        return relu(self.bn2(self.conv2(relu(self.bn1(self.conv1(x))))) + self.shortcut(x))


class PreActivated(nn.Module):
    """Normalize, activate, convolve; `raw`: the shortcut sees the block's input as it is."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, raw: bool):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, outputs, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), conv(outputs, outputs, 3)
        self.raw = raw
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride))

    def forward(self, x):
        h = relu(self.bn1(x))
        kept = self.shortcut(x if self.raw else h) if hasattr(self, "shortcut") else x
        return self.conv2(relu(self.bn2(self.conv1(h)))) + kept


class Wide(nn.Module):
    """A block of a wide residual network; its shortcut sees the activated input."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, outputs, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), conv(outputs, outputs, 3)
        self.convShortcut = conv(inputs, outputs, 1, stride) if inputs != outputs else None

    def forward(self, x):
        h = relu(self.bn1(x))
        kept = x if self.convShortcut is None else self.convShortcut(h)
        return kept + self.conv2(relu(self.bn2(self.conv1(h))))


def stage(block, inputs: int, outputs: int, blocks: int, stride: int, **options) -> nn.Sequential:
    sizes = [(inputs, stride)] + [(outputs, 1)] * (blocks - 1)
    return nn.Sequential(*[block(size, outputs, step, **options) for size, step in sizes])


class Residual(nn.Module):
    """ResNet, or PreActResNet with or without a last normalization."""

    def __init__(self, features, blocks=2, classes=10, *, block=Basic, last=False, **options):
        super().__init__()
        self.conv1 = conv(3, features[0], 3)
        self.stem = block is Basic
        if self.stem:
            self.bn1 = nn.BatchNorm2d(features[0])
        inputs = features[0]
        for s, outputs in enumerate(features, 1):
            made = stage(block, inputs, outputs, blocks, 2 if s > 1 else 1, **options)
            setattr(self, f"layer{s}", made)
            inputs = outputs
        self.count = len(features)
        if last:
            self.bn = nn.BatchNorm2d(inputs)
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x):
        x = self.conv1(x)
        if self.stem:
            x = relu(self.bn1(x))
        for s in range(1, self.count + 1):
            x = getattr(self, f"layer{s}")(x)
        if hasattr(self, "bn"):
            x = relu(self.bn(x))
        return self.linear(x.mean((2, 3)))


class Stage(nn.Module):
    def __init__(self, *sizes):
        super().__init__()
        self.layer = stage(Wide, *sizes)

    def forward(self, x):
        return self.layer(x)


class WideResidual(nn.Module):
    """WideResNet; `twice`: with the copy of the first stage that TRADES makes and never runs."""

    def __init__(self, depth, width, classes=10, *, twice=False, bias=True):
        super().__init__()
        blocks, sizes = (depth - 4) // 6, [16, 16 * width, 32 * width, 64 * width]
        self.conv1 = conv(3, 16, 3)
        self.block1 = Stage(16, sizes[1], blocks, 1)
        if twice:
            self.sub_block1 = Stage(16, sizes[1], blocks, 1)
        self.block2 = Stage(sizes[1], sizes[2], blocks, 2)
        self.block3 = Stage(sizes[2], sizes[3], blocks, 2)
        self.bn1, self.fc = nn.BatchNorm2d(sizes[3]), nn.Linear(sizes[3], classes, bias=bias)

    def forward(self, x):
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(relu(self.bn1(x)).mean((2, 3)))


class Bottleneck(nn.Module):
    """torchvision's block of three convolutions."""

    def __init__(self, inputs: int, features: int, stride: int, *, first: bool):
        super().__init__()
        outputs = 4 * features
        self.conv1, self.bn1 = conv(inputs, features, 1), nn.BatchNorm2d(features)
        self.conv2, self.bn2 = conv(features, features, 3, stride), nn.BatchNorm2d(features)
        self.conv3, self.bn3 = conv(features, outputs, 1), nn.BatchNorm2d(outputs)
        self.downsample = None
        if first:
            norm = nn.BatchNorm2d(outputs)
            self.downsample = nn.Sequential(conv(inputs, outputs, 1, stride), norm)

    def forward(self, x):
        h = relu(self.bn2(self.conv2(relu(self.bn1(self.conv1(x))))))
        return relu(
            self.bn3(self.conv3(h)) + (x if self.downsample is None else self.downsample(x))
        )


class ImageNetResidual(nn.Module):
    """torchvision's ResNet of bottlenecks."""

    def __init__(self, width, blocks, classes):
        super().__init__()
        self.conv1, self.bn1 = conv(3, width, 7, 2), nn.BatchNorm2d(width)
        inputs = width
        for s, count in enumerate(blocks, 1):
            features = width * 2 ** (s - 1)
            stride = 2 if s > 1 else 1
            made = [Bottleneck(inputs, features, stride, first=True)]
            made += [Bottleneck(4 * features, features, 1, first=False) for _ in range(count - 1)]
            setattr(self, f"layer{s}", nn.Sequential(*made))
            inputs = 4 * features
        self.stages, self.fc = len(blocks), nn.Linear(inputs, classes)

    def forward(self, x):
        x = nn.functional.max_pool2d(relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for s in range(1, self.stages + 1):
            x = getattr(self, f"layer{s}")(x)
        return self.fc(x.mean((2, 3)))


def padded(x, stride: int):
    """One zero around, or where the image is halved one after it."""
    return nn.functional.pad(x, (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1))


class GowalBlock(nn.Module):
    """A block of Gowal et al.'s networks by the names of either; `wide`: which of the two."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, wide: bool):
        super().__init__()
        self.stride, self.wide = stride, wide
        self.names = ("conv_0", "conv_1") if wide else ("conv_2d_1", "conv_2d_2")
        self.batchnorm_0, self.batchnorm_1 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        setattr(self, self.names[0], nn.Conv2d(inputs, outputs, 3, stride, bias=False))
        setattr(self, self.names[1], nn.Conv2d(outputs, outputs, 3, padding=1, bias=False))
        self.shortcut = None
        if inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1 if wide else 3, stride, bias=False)

    def forward(self, x):
        silu = nn.functional.silu
        first, second = (getattr(self, name) for name in self.names)
        h = silu(self.batchnorm_0(x))
        kept = x
        if self.shortcut is not None:
            kept = self.shortcut(h if self.wide else padded(x, self.stride))
        return kept + second(silu(self.batchnorm_1(first(padded(h, self.stride)))))


class GowalGroup(nn.Module):
    def __init__(self, *sizes):
        super().__init__()
        self.block = stage(GowalBlock, *sizes, wide=True)

    def forward(self, x):
        return self.block(x)


class Gowal(nn.Module):
    """WideResNet or PreActResNet as Gowal et al. train them, with buffers that normalize."""

    def __init__(self, features, blocks, classes=10, *, wide: bool, stem=16):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.49, 0.48, 0.45]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor([0.25, 0.24, 0.26]).view(3, 1, 1))
        self.first = "init_conv" if wide else "conv_2d"
        setattr(self, self.first, conv(3, stem, 3))
        groups, inputs = [], stem
        for s, outputs in enumerate(features):
            sizes = (inputs, outputs, blocks, 2 if s else 1)
            groups.append(GowalGroup(*sizes) if wide else stage(GowalBlock, *sizes, wide=False))
            inputs = outputs
        if wide:
            self.layer = nn.Sequential(*groups)
        else:
            for s, group in enumerate(groups):
                setattr(self, f"layer_{s}", group)
        self.groups, self.wide = len(groups), wide
        self.batchnorm, self.logits = nn.BatchNorm2d(inputs), nn.Linear(inputs, classes)

    def forward(self, x):
        x = getattr(self, self.first)((x - self.mean) / self.std)
        for s in range(self.groups):
            x = self.layer[s](x) if self.wide else getattr(self, f"layer_{s}")(x)
        return self.logits(nn.functional.silu(self.batchnorm(x)).mean((2, 3)))


class Small(nn.Module):
    """TRADES' network for MNIST."""

    def __init__(self):
        super().__init__()
        sizes = [(1, 32), (32, 32), (32, 64), (64, 64)]
        convs = [(f"conv{i}", nn.Conv2d(a, b, 3)) for i, (a, b) in enumerate(sizes, 1)]
        self.feature_extractor = nn.Sequential(OrderedDict(convs))
        layers = [
            (f"fc{i}", nn.Linear(a, b))
            for i, (a, b) in enumerate([(1024, 200), (200, 200), (200, 10)], 1)
        ]
        self.classifier = nn.Sequential(OrderedDict(layers))

    def forward(self, x):
        convs, dense = self.feature_extractor, self.classifier
        for first, second in ((convs.conv1, convs.conv2), (convs.conv3, convs.conv4)):
            x = nn.functional.max_pool2d(relu(second(relu(first(x)))), 2)
        return dense.fc3(relu(dense.fc2(relu(dense.fc1(x.flatten(1))))))


class Normalized(nn.Module):
    """A network behind a normalization with buffers, under names of one's choice."""

    def __init__(self, network, mean, std, names=("mu", "sigma"), inner=None):
        super().__init__()
        for name, values in zip(names, (mean, std), strict=True):
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1))
        self.names, self.model = names, network

    def forward(self, x):
        mean, std = (getattr(self, name) for name in self.names)
        return self.model((x - mean) / std)


def drawn(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network with random weights and random running statistics, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor):
        return torch.randn(tensor.shape, generator=generator)

    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(1 + 0.2 * normal(module.weight))
                module.bias.copy_(0.1 * normal(module.bias))
                module.running_mean.copy_(0.1 * normal(module.running_mean))
                module.running_var.copy_(torch.exp(0.3 * normal(module.running_var)))
            elif isinstance(module, nn.Conv2d | nn.Linear):
                fan_in = module.weight[0].numel()
                module.weight.copy_(normal(module.weight) * (2 / fan_in) ** 0.5)
                if module.bias is not None:
                    module.bias.copy_(0.1 * normal(module.bias))
    return network.eval()
