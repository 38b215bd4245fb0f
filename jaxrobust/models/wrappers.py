"""Models around models: what happens to images before a network, and to its outputs after it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from jaxrobust import checks
from jaxrobust.models.coercion import ModelLike, as_model
from jaxrobust.models.layers import prepare
from jaxrobust.models.remembered import OwnValues, remembered
from jaxrobust.types import Array, Key, Model, PyTree, Variables

Numbers = float | Sequence[float] | np.ndarray
Apply = Callable[..., tuple[Array, PyTree]]
Step = Callable[[Array], Array]


def normalized(model: ModelLike, mean: Numbers, std: Numbers) -> Model:
    """The model on `(x - mean) / std`, so that attacks and radii stay in raw pixels.

    Args:
      model: the classifier; see `as_model`.
      mean, std: what its training subtracted and divided by, in the units of `x`: one number, or
        one for each channel (the last axis of `x`, also outside of `channels_first`).

    Returns:
      The `Model`, with the parameters of the one given.

    Raises:
      ValueError: numbers that are not finite, a `std` that is not positive, more than one axis.
        `apply` raises it where there are not as many as channels.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxrobust import models
      >>> model = models.normalized(lambda x: x, mean=(0.5, 0.2), std=0.5)
      >>> print(model.apply(model.init(None, None), jnp.array([[1.0, 0.2]]))[0])
      [[1. 0.]]
    """
    checks.positive("std", np.asarray(std))
    for name, values in (("mean", mean), ("std", std)):
        if not np.isfinite(values).all() or np.ndim(values) > 1 or not np.size(values):
            raise ValueError(f"{name} must be a finite number or one per channel, got {values!r}")
    return _around(model, _Normalize(_tuple(mean), _tuple(std)), _same)


def channels_first(model: ModelLike) -> Model:
    """The model of images with channels first, for images with channels last.

    Args:
      model: a classifier of `[B, C, H, W]`, such as one in Equinox or one converted from PyTorch.

    Returns:
      The `Model` of `[B, H, W, C]`, with the parameters of the one given.

    Raises:
      ValueError: `apply` and `init` raise it for inputs of fewer than 3 dimensions.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxrobust import models
      >>> model = models.channels_first(lambda x: x[:, :, 0, 0])
      >>> model.apply(model.init(None, None), jnp.zeros((1, 8, 8, 3)))[0].shape
      (1, 3)
    """
    return _around(model, _channels_to_front, _same)


def binary(model: ModelLike) -> Model:
    """The two-class model of a network with one output z, the log-odds of class 1.

    Its logits are `[0, z]`: cross-entropy is the logistic loss, the margin of class 1 is z, and
    labels are 0 and 1.

    Args:
      model: a network `[B, ...]` -> `[B]` or `[B, 1]`, before the sigmoid; see `as_model`.

    Returns:
      The `Model` with logits `[B, 2]`, and the parameters of the one given.

    Raises:
      ValueError: `apply` raises it for outputs of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxrobust import models
      >>> model = models.binary(lambda x: x[:, 0])
      >>> print(model.apply(model.init(None, None), jnp.array([[3.0, 1.0]]))[0])
      [[0. 3.]]
    """
    return _around(model, _same, _two_logits)


def _around(model: ModelLike, before: Step, after: Step) -> Model:
    inner = as_model(model)
    init = inner.init

    def transformed(key: Key, x: Array) -> Variables:
        return init(key, before(x))

    # A network that holds its numbers does not look at the input.
    own = init if isinstance(init, OwnValues) else transformed
    return Model(own, _apply(inner.apply, before, after))


@remembered
def _apply(inner: Apply, before: Step, after: Step) -> Apply:
    def apply(
        variables: Variables,
        x: Array,
        *,
        train: bool = False,
        key: Key | None = None,
        axes: tuple[str, ...] = (),
    ) -> tuple[Array, PyTree]:
        outputs, stats = inner(variables, before(x), train=train, key=key, axes=axes)
        return after(outputs), stats

    return apply


@dataclasses.dataclass(frozen=True)
class _Normalize:
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, x: Array) -> Array:
        return prepare(x, self.mean, self.std, x.dtype)


def _tuple(values: Numbers) -> tuple[float, ...]:
    return tuple(np.ravel(values).astype(float).tolist())


def _same(x: Array) -> Array:
    return x


def _channels_to_front(x: Array) -> Array:
    if x.ndim < 3:
        raise ValueError(f"channels_first takes images [B, H, W, C], got inputs of shape {x.shape}")
    return jnp.moveaxis(x, -1, 1)


def _two_logits(z: Array) -> Array:
    if z.ndim > 2 or (z.ndim == 2 and z.shape[1] != 1):
        raise ValueError(f"binary takes a network with one output, [B] or [B, 1], got {z.shape}")
    z = z.reshape(-1, 1)
    return jnp.concatenate([jnp.zeros_like(z), z], axis=1)
