"""Reference networks of the papers (Flax linen), and `Model`s of any other network."""

from jaxrobust.models.coercion import ModelLike, as_model, as_variables
from jaxrobust.models.convnet import ConvNet, digits_cnn, single_conv, wong_large, wong_small
from jaxrobust.models.convolution import Conv, convolve
from jaxrobust.models.dale import DaleMnist
from jaxrobust.models.equinox import from_equinox
from jaxrobust.models.fosc import FoscCNN, fosc_cifar, fosc_mnist
from jaxrobust.models.from_torch import from_torch_state_dict
from jaxrobust.models.functions import from_function, from_init_apply
from jaxrobust.models.layers import max_pool
from jaxrobust.models.linen import from_linen
from jaxrobust.models.mlp import MLP
from jaxrobust.models.nnx import from_nnx
from jaxrobust.models.onnx_file import from_onnx
from jaxrobust.models.preact_resnet import PreActResNet, wide_resnet
from jaxrobust.models.pretrained import binarized, load_cascade, load_pretrained
from jaxrobust.models.registry import build
from jaxrobust.models.resnet import ResNet
from jaxrobust.models.resnet50 import ResNet50
from jaxrobust.models.trades import TradesSmall
from jaxrobust.models.union import UnionMnist
from jaxrobust.models.wong import WongResNet, wong_deep, wong_wide
from jaxrobust.models.wrappers import binary, channels_first, normalized

__all__ = [
    "MLP",
    "Conv",
    "ConvNet",
    "DaleMnist",
    "FoscCNN",
    "ModelLike",
    "PreActResNet",
    "ResNet",
    "ResNet50",
    "TradesSmall",
    "UnionMnist",
    "WongResNet",
    "as_model",
    "as_variables",
    "binarized",
    "binary",
    "build",
    "channels_first",
    "convolve",
    "digits_cnn",
    "fosc_cifar",
    "fosc_mnist",
    "from_equinox",
    "from_function",
    "from_init_apply",
    "from_linen",
    "from_nnx",
    "from_onnx",
    "from_torch_state_dict",
    "load_cascade",
    "load_pretrained",
    "max_pool",
    "normalized",
    "single_conv",
    "wide_resnet",
    "wong_deep",
    "wong_large",
    "wong_small",
    "wong_wide",
]
