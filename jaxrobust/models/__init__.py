"""Reference networks of the papers (Flax linen) and the bridge from linen to `Model`."""

from jaxrobust.models.convnet import ConvNet, digits_cnn, single_conv, wong_large, wong_small
from jaxrobust.models.convolution import Conv, convolve
from jaxrobust.models.dale import DaleMnist
from jaxrobust.models.fosc import FoscCNN, fosc_cifar, fosc_mnist
from jaxrobust.models.from_torch import from_torch_state_dict
from jaxrobust.models.layers import max_pool
from jaxrobust.models.linen import from_linen
from jaxrobust.models.mlp import MLP
from jaxrobust.models.preact_resnet import PreActResNet, wide_resnet
from jaxrobust.models.pretrained import binarized, load_cascade, load_pretrained
from jaxrobust.models.registry import build
from jaxrobust.models.resnet import ResNet
from jaxrobust.models.resnet50 import ResNet50
from jaxrobust.models.trades import TradesSmall
from jaxrobust.models.union import UnionMnist
from jaxrobust.models.wong import WongResNet, wong_deep, wong_wide

__all__ = [
    "MLP",
    "Conv",
    "ConvNet",
    "DaleMnist",
    "FoscCNN",
    "PreActResNet",
    "ResNet",
    "ResNet50",
    "TradesSmall",
    "UnionMnist",
    "WongResNet",
    "binarized",
    "build",
    "convolve",
    "digits_cnn",
    "fosc_cifar",
    "fosc_mnist",
    "from_linen",
    "from_torch_state_dict",
    "load_cascade",
    "load_pretrained",
    "max_pool",
    "single_conv",
    "wide_resnet",
    "wong_deep",
    "wong_large",
    "wong_small",
    "wong_wide",
]
