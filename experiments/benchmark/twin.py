"""The PyTorch side of a benchmark: the subject's network and images there.

PyTorch is imported inside the functions: the benchmark runs without it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from ..common.arithmetic import cores, matrices, peak, sides
from .subject import Subject

Tensor = Any
Perturb = Callable[[Tensor, Tensor], Tensor]
"""(images `[B, C, H, W]`, labels `[B]`) -> the points found, of the images' shape."""


class Twin(NamedTuple):
    """The subject's network in PyTorch, and how many images its forward passes have seen."""

    network: Any
    classes: int
    shape: tuple[int, int, int]
    """Shape of an image: channels, height, width."""
    seen: list[int]
    """One number, which every forward pass raises by its batch."""


def twin(subject: Subject, device: str) -> Twin:
    """The subject's network in PyTorch on `device`, on all `cores`, its weights without gradients.

    Raises ValueError where PyTorch lacks the device, or where its logits on the subject's images
    differ from ours by more than 1e-4 (of the largest, where that is above 1).
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "PyTorch sees no GPU where JAX does; set JAX_PLATFORMS=cpu to compare on the CPU"
        )
    torch.set_num_threads(cores())
    torch.backends.cuda.matmul.allow_tf32 = True  # as JAX does and cuDNN too
    height, width, channels = subject.x.shape[1:]
    after = sides(subject.convs, height)
    layers, names, last = [], [], channels
    for index, (features, kernel, stride) in enumerate(subject.convs, 1):
        layers += [torch.nn.Conv2d(last, features, kernel, stride, padding=1), torch.nn.ReLU()]
        names += [f"conv{index}", ""]
        last = features
    layers, names = [*layers, torch.nn.Flatten()], [*names, ""]
    units = [after[-1] ** 2 * last, *subject.widths, subject.classes]
    for index, (before, now) in enumerate(itertools.pairwise(units), 1):
        layers += [torch.nn.Linear(before, now), torch.nn.ReLU()]
        names += [f"dense{index}", ""]
    network = torch.nn.Sequential(*layers[:-1])
    with torch.no_grad():
        for layer, name in zip(network, names, strict=False):
            if name:
                kernel = np.asarray(subject.variables.params[name]["kernel"])
                if name == "dense1":  # images here are [H, W, C], PyTorch flattens [C, H, W]
                    rows = kernel.reshape(after[-1], after[-1], last, -1).transpose(2, 0, 1, 3)
                    kernel = rows.reshape(kernel.shape)
                # [kh, kw, C, F] -> [F, C, kh, kw], and [M, N] -> [N, M]
                order = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
                layer.weight.copy_(torch.from_numpy(kernel.transpose(order).copy()))
                layer.bias.copy_(torch.tensor(np.asarray(subject.variables.params[name]["bias"])))
        network = network.to(device).eval().requires_grad_(False)
        theirs = _whole_floats(network, channels_first(subject.x, device)).cpu().numpy()
    with jax.default_matmul_precision("highest"):
        logits, _ = subject.model.apply(subject.variables, subject.x, train=False)
    gap = float(np.max(np.abs(theirs - np.asarray(logits))))
    if not gap <= 1e-4 * max(1.0, float(np.max(np.abs(logits)))):
        raise ValueError(f"the PyTorch twin's logits differ from ours by up to {gap:.2g}")
    seen = [0]

    def count(_: Any, inputs: tuple[Tensor, ...]) -> None:
        seen[0] += len(inputs[0])

    # On the first layer, not the whole: ART calls the layers of a Sequential one by one.
    network[0].register_forward_pre_hook(count)
    return Twin(network, subject.classes, (channels, height, width), seen)


def _whole_floats(network: Any, x: Tensor) -> Tensor:
    """Logits without TF32, which both sides may use on a GPU and which differs between them."""
    import torch

    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    held = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        return network(x)
    finally:
        for backend, allowed in zip(backends, held, strict=True):
            backend.allow_tf32 = allowed


def channels_first(x: np.ndarray, device: str) -> Tensor:
    """Images `[N, H, W, C]` as a PyTorch tensor `[N, C, H, W]`."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))).to(device)


def runner(
    perturb: Perturb, twin: Twin, subject: Subject, *, batch: int, seed: int
) -> Callable[[], np.ndarray]:
    """Attacks all images in batches, from one seed: points `[N, H, W, C]` on the host."""
    import torch

    device = next(twin.network.parameters()).device
    x = channels_first(subject.x, device).split(batch)
    y = torch.from_numpy(subject.y.astype(np.int64)).to(device).split(batch)

    def run() -> np.ndarray:
        twin.seen[0] = 0
        torch.manual_seed(seed)
        np.random.seed(seed)
        points = [perturb(a, b).detach().cpu() for a, b in zip(x, y, strict=True)]
        return torch.cat(points).numpy().transpose(0, 2, 3, 1)

    return run


def torch_peak(twin: Twin) -> float:
    """Operations a second of PyTorch's float32 matrix product on the twin's device."""
    import torch

    device = next(twin.network.parameters()).device

    def multiply(a: Tensor, b: Tensor) -> float:
        # Reading one number waits for the whole product.
        return float((a @ b)[0, 0])

    a, b = (torch.from_numpy(m).to(device) for m in matrices())
    return peak(multiply, a, b)
