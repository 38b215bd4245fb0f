"""Trained models by where they lie: the folder of a run, released weights, PyTorch's weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import training
from jaxrobust.data import Dataset
from jaxrobust.models import build, from_linen, from_torch_state_dict, load_pretrained
from jaxrobust.models.registry import NETWORKS
from jaxrobust.types import Model, Variables

from .runner import network


class Trained(NamedTuple):
    """A classifier with its weights."""

    name: str
    """A name to print beside its figures; what its weights do not show of it included."""
    model: Model
    variables: Variables


class Network(NamedTuple):
    """A network of `models.build` and its options."""

    name: str
    options: Mapping[str, Any]


def run_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a training run: of a study, or of a call of `training.fit`.

    Raises:
      FileNotFoundError: `folder` holds no run.
      ValueError: its config cannot be read.
    """
    file = folder / "config.json"
    if not file.is_file():
        below = sorted(str(p.parent) for p in folder.glob("*/config.json"))
        hint = f"; there are runs in: {', '.join(below)}" if below else ""
        raise FileNotFoundError(f"{folder} is no folder of a training run (no config.json){hint}")
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} holds no JSON object ({error})") from error


def recipe_of(held: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The recipe in a run's config, as studies write it; None where there is none."""
    recipe = held.get("recipe")
    return recipe if isinstance(recipe, dict) else None


def from_run(folder: Path, select: str, dataset: Dataset, given: Network | None = None) -> Trained:
    """The model of a training run at its "last" or its "best" epoch, for a data set's images.

    Args:
      folder: of a study's run, which tells its network, or of one that `training.fit` was called
        for.
      select: the epoch. dataset: the images, whose shape and classes the network is built for.
      given: the network, where the run does not tell.

    Raises:
      FileNotFoundError: no run, or no such checkpoint in it.
      ValueError: see `run_config`; or a network that neither or both of the run and `given` tell.
      CheckpointError: a checkpoint that is broken or does not fit the network and the data.
    """
    called, model, shown = _rebuilt(folder, dataset, given)
    image = jax.ShapeDtypeStruct((1, *dataset.shape), jnp.float32)
    try:
        like = jax.eval_shape(model.init, jax.random.key(0), image)
    # Flax has errors of its own for a shape that does not fit.
    except Exception as error:
        raise _unfit(called, dataset) from error
    try:
        variables = training.fitted(like, training.saved_variables(folder, select))
    except ValueError as error:
        raise training.CheckpointError(
            f"{folder / select} does not fit the network {called!r} on {dataset.name!r}: {error}"
        ) from error
    told = [f"{called} of {folder.resolve().name}", f"{select} epoch", *shown]
    return Trained(", ".join(told), model, jax.tree.map(jnp.asarray, variables))


def _rebuilt(
    folder: Path, dataset: Dataset, given: Network | None
) -> tuple[str, Model, Sequence[str]]:
    """The name of a run's network, its model, and what else to print of it."""
    told, file = recipe_of(run_config(folder)), folder / "config.json"
    if told is None and given is None:
        raise ValueError(
            f"{file} does not tell which network was trained: give it with --architecture NAME, "
            "and its options, if any, with --architecture-options; known are "
            f"{', '.join(sorted(NETWORKS))}"
        )
    if told is None:
        options = _tupled(given.options)
        shown = [f"{name} {value}" for name, value in options.items()]
        try:
            return given.name, from_linen(build(given.name, dataset.num_classes, options)), shown
        except TypeError as error:
            raise ValueError(f"--architecture-options: {error}") from error
    if given is not None:
        raise ValueError(
            f"{file} tells its network, {told.get('model')!r}: leave --architecture away"
        )
    try:
        name, dtype = told["model"], told["dtype"]
    except KeyError as error:
        raise ValueError(
            f"{file} holds a recipe without {error}, so its model is unknown"
        ) from error
    return name, network(name, dtype, dataset, _tupled(told.get("model_options", {}))), [dtype]


def _tupled(options: Mapping[str, Any]) -> dict[str, Any]:
    # JSON has no tuples.
    return {n: tuple(v) if isinstance(v, list) else v for n, v in options.items()}


def _unfit(name: str, dataset: Dataset) -> ValueError:
    return ValueError(
        f"the network {name!r} does not take the images of {dataset.name!r}, of shape "
        f"{dataset.shape}; choose the data set it was trained on"
    )


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
        raise _unfit(name, dataset) from error
    return trained


def predictions(model: Model, variables: Variables, points: np.ndarray) -> np.ndarray:
    """The classes `[N]` predicted at points `[N, ...]` in [0, 1]."""
    logits, _ = model.apply(variables, jnp.asarray(points), train=False, key=None, axes=())
    return np.asarray(logits.argmax(axis=-1))
