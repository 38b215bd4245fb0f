"""Trained models by where they lie: the folder of a run, released weights, PyTorch's weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common.runner import network
from jaxrobust import training
from jaxrobust.data import Dataset
from jaxrobust.models import from_torch_state_dict, load_pretrained
from jaxrobust.types import Model, PyTree, Variables


class Trained(NamedTuple):
    """A classifier with its weights."""

    name: str
    """A name to print beside its figures; what its weights do not show of it included."""
    model: Model
    variables: Variables


def run_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a training run, which names its data set, network and recipe.

    Raises:
      FileNotFoundError: `folder` holds no run.
      ValueError: its config does not say which network was trained.
    """
    file = folder / "config.json"
    if not file.is_file():
        below = sorted(str(p.parent) for p in folder.glob("*/config.json"))
        hint = f"; there are runs in: {', '.join(below)}" if below else ""
        raise FileNotFoundError(f"{folder} is no folder of a training run (no config.json){hint}")
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        str(held["dataset"]), held["recipe"]["model"], held["recipe"]["dtype"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{file} does not name the data set, network and dtype of a run that "
            f"`experiments.common.runner` made ({error!r}), so its model cannot be rebuilt"
        ) from error
    return held


def from_run(folder: Path, select: str, dataset: Dataset) -> Trained:
    """The model of a training run at its "last" or its "best" epoch, for a data set's images.

    Raises:
      FileNotFoundError: no run, or no such checkpoint in it. ValueError: see `run_config`.
      CheckpointError: a checkpoint that is broken or does not fit the network and the data.
    """
    recipe = run_config(folder)["recipe"]
    # JSON has no tuples.
    options = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in recipe.get("model_options", {}).items()
    }
    model = network(recipe["model"], recipe["dtype"], dataset, options)
    image = jax.ShapeDtypeStruct((1, *dataset.shape), jnp.float32)
    like = jax.eval_shape(model.init, jax.random.key(0), image)
    found = _leaves(training.saved_variables(folder, select))
    expected = _leaves(like._asdict())
    for name in sorted(found.keys() | expected.keys()):
        there, here = (getattr(part.get(name), "shape", "missing") for part in (found, expected))
        if there != here:
            raise training.CheckpointError(
                f"{folder / select} does not fit the network {recipe['model']!r} on "
                f"{dataset.name!r}: {name} is {there} there and {here} here"
            )
    variables = jax.tree_util.tree_map_with_path(
        lambda path, _: jnp.asarray(found[jax.tree_util.keystr(path)]), like._asdict()
    )
    name = f"{recipe['model']} of {folder.resolve().name}, {select} epoch, {recipe['dtype']}"
    return Trained(name, model, Variables(**variables))


def released(name: str, directory: Path, dataset: Dataset) -> Trained:
    """Released weights, see `models.load_pretrained`.

    Raises:
      FileNotFoundError, ValueError: what `load_pretrained` raises.
      ValueError: the network does not take the images of the data set.
    """
    model, variables = load_pretrained(name, directory)
    return _taking(dataset, Trained(Path(name).name.removesuffix(".npz"), model, variables))


def from_torch(
    path: Path,
    architecture: str,
    dataset: Dataset,
    *,
    options: Mapping[str, Any],
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    entry: str | None,
) -> Trained:
    """Weights that were trained in PyTorch, see `models.from_torch_state_dict`.

    Raises:
      FileNotFoundError, ValueError, TypeError: what `from_torch_state_dict` raises.
      ValueError: the network does not take the images of the data set, or has other classes.
    """
    model, variables = from_torch_state_dict(
        path,
        architecture,
        num_classes=dataset.num_classes,
        mean=mean,
        std=std,
        options=options,
        entry=entry,
    )
    # What the weights do not show, the file's own normalization included, tells evaluations apart.
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    told = {**options, "mean": mean, "std": std}
    settings = "".join(f", {n} {value}" for n, value in told.items() if value is not None)
    name = f"{architecture} of {path.name} (SHA-256 {digest}){settings}"
    return _taking(dataset, Trained(name, model, variables))


def _taking(dataset: Dataset, trained: Trained) -> Trained:
    """The model, after a look at whether it takes the images of the data set."""
    name, model, variables = trained
    image = jax.ShapeDtypeStruct(dataset.shape, jnp.float32)
    try:
        jax.eval_shape(lambda v, x: model.logits_fn(v)(x), variables, image)
    # Flax has errors of its own for a shape that does not fit.
    except Exception as error:
        raise ValueError(
            f"the network {name!r} does not take the images of {dataset.name!r}, of shape "
            f"{dataset.shape}; choose the data set it was trained on"
        ) from error
    return trained


def predictions(model: Model, variables: Variables, points: np.ndarray) -> np.ndarray:
    """The classes `[N]` predicted at points `[N, ...]` in [0, 1]."""
    logits, _ = model.apply(variables, jnp.asarray(points), train=False, key=None, axes=())
    return np.asarray(logits.argmax(axis=-1))


def _leaves(tree: PyTree) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
