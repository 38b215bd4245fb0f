"""Figures 3.6, 3.8 to 3.14, 3.18 and 3.21 of Wong's thesis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from .insides import SIGNS
from .learning import History, Stage

KINDS = ("loss", "error")


def learning(histories: Mapping[str, History]) -> Figure:
    """Figures 3.6 and 3.12 to 3.14: losses and errors over the epochs, a row for each history."""
    figure = Figure(figsize=(9.2, 3.5 * len(histories)), layout="constrained")
    grid = figure.subplots(len(histories), 2, squeeze=False)
    for line, (name, history) in zip(grid, histories.items(), strict=True):
        epochs = [row["epoch"] for row in history]
        for panel, kind in zip(line, KINDS, strict=True):
            for split, color in (("train", "tab:blue"), ("test", "tab:orange")):
                for robust, style in (("", "--"), ("robust ", "-")):
                    values = [row[f"{split} {robust}{kind}"] for row in history]
                    label = f"{split}, {robust or 'standard'}"
                    panel.plot(epochs, values, style, color=color, label=label.strip())
            panel.set(xlabel="epoch", ylabel=kind + (" (%)" if kind == "error" else ""))
            panel.locator_params(axis="x", integer=True)
            if kind == "loss":
                panel.set_yscale("log")
                panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                panel.yaxis.set_major_formatter("{x:g}")
                panel.minorticks_off()
            panel.grid(alpha=0.3)
        line[0].set_title(name)
        line[1].legend(fontsize=9)
    return figure


def projections(histories: Mapping[str, History]) -> Figure:
    """Figure 3.21: training and test robust error, a line per number of projections."""
    figure = Figure(figsize=(9.2, 3.5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, split in zip(panels, ("train", "test"), strict=True):
        for name, history in histories.items():
            values = [row[f"{split} robust error"] for row in history]
            panel.plot([row["epoch"] for row in history], values, label=name)
        panel.set(xlabel="epoch", title=f"{split} images")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("robust error (%)")
    panels[1].legend()
    return figure


def cascade(stages: Sequence[Stage]) -> Figure:
    """Figure 3.18: robust error of each stage in training and of the cascade in test."""
    figure = Figure(figsize=(6.4, 3.7), layout="constrained")
    panel = figure.subplots()
    begun = 0
    for number, stage in enumerate(stages, 1):
        epochs = begun + 1 + np.arange(len(stage.train))
        for values, style, label in (
            (stage.train, "-", "the stage, on its training images"),
            (stage.test, "--", "the cascade, on test images"),
        ):
            color = "tab:blue" if style == "-" else "tab:orange"
            panel.plot(epochs, values, style, color=color, label=label if number == 1 else None)
        if begun:
            panel.axvline(begun + 0.5, color="0.6", linewidth=1)
        begun += len(stage.train)
    panel.locator_params(axis="x", integer=True)
    panel.set(xlabel="epoch, stages one after another", ylabel="robust error (%)", ylim=(0, 100))
    panel.grid(alpha=0.3)
    panel.legend()
    return figure


def filters(kernels: Mapping[str, np.ndarray], *, most: int = 16) -> Figure:
    """Figures 3.9 and 3.10: a network per row, its first filters on the input they weigh most.

    `kernels` are `[k, k, inputs, filters]`; white is 0, and each row has a scale of its own.
    """
    count = min(most, max(kernel.shape[-1] for kernel in kernels.values()))
    figure = Figure(figsize=(0.62 * count + 1.4, 0.82 * len(kernels) + 0.3), layout="constrained")
    grid = figure.subplots(len(kernels), count, squeeze=False)
    for line, (name, kernel) in zip(grid, kernels.items(), strict=True):
        weighed = kernel[:, :, np.argmax(np.abs(kernel).sum(axis=(0, 1, 3)))]
        top = np.abs(weighed).max()
        for panel in line:
            panel.axis("off")
        for index in range(min(count, kernel.shape[-1])):
            line[index].imshow(weighed[..., index], cmap="RdBu_r", vmin=-top, vmax=top)
        line[0].text(
            -0.25, 0.5, name, ha="right", va="center", transform=line[0].transAxes, fontsize=8
        )
    return figure


def activations(found: Mapping[str, Sequence[np.ndarray]]) -> Figure:
    """Figure 3.11: over the images, the share of a layer's units that are off, crossing or on."""
    layers = max(len(own) for own in found.values())
    size = (3.1 * layers + 0.6, 2.1 * len(found) + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(found), layers, squeeze=False, sharex=True)
    bins = np.linspace(0, 100, 51)
    for line, (name, own) in zip(grid, found.items(), strict=True):
        for index, (panel, layer) in enumerate(zip(line, own, strict=True), 1):
            for column, kind in enumerate(SIGNS):
                panel.hist(100 * layer[:, column], bins=bins, alpha=0.7, label=kind)
            panel.set_yticks([])
            panel.set_title(f"{name}, layer {index}", fontsize=9)
    for panel in grid[-1]:
        panel.set_xlabel("units (%)")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def slack(found: Mapping[str, np.ndarray]) -> Figure:
    """Figure 3.8: how far dual margins lie below the linear program's, a panel per network."""
    figure = Figure(figsize=(3.4 * len(found), 3.0), layout="constrained")
    panels = figure.subplots(1, len(found), squeeze=False, sharex=True)[0]
    most = 100 * max(values.max() for values in found.values())
    for panel, (name, values) in zip(panels, found.items(), strict=True):
        panel.hist(100 * values, bins=np.linspace(0, most, 41))
        panel.set_title(name, fontsize=9)
        panel.set_xlabel("slack (% of the mean logit gap)")
        panel.set_yticks([])
    panels[0].set_ylabel("margins")
    return figure
