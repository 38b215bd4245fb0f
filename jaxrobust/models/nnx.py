"""From a Flax NNX module to the two pure functions the library asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrobust.models.modes import Modes, find_modes, keywords
from jaxrobust.models.remembered import OwnValues, remembered
from jaxrobust.types import Array, Key, Model, PyTree, Variables


class Stream(NamedTuple):
    """A number of a module's random streams: its place, whether it is a key, and its shape."""

    path: tuple[Any, ...]
    is_key: bool
    shape: tuple[int, ...]


class Parts(NamedTuple):
    """What a module is made of."""

    graph: nnx.GraphDef
    streams: tuple[Stream, ...]
    variables: Variables


def from_nnx(
    module: nnx.Module | Callable[[nnx.Rngs], nnx.Module], *, mode: str | None = None
) -> Model:
    """Wraps an NNX classifier, `[B, ...]` -> logits `[B, K]`, as a `Model`.

    `params` are the module's `nnx.Param`s, `stats` all its other variables but random streams and
    intermediates, each a dict of arrays. Every pass sets the mode itself, by `train()` or `eval()`,
    so that a module left in training mode evaluates in evaluation mode, and seeds the streams from
    `key`; in evaluation without a key they are the same each time. Batch statistics are averaged
    over the mapped axes: `axis_name` is set for the pass, as with `from_linen`.

    The module itself stays as it is. `nnx.update(module, variables.params, variables.stats)` puts
    trained numbers into it.

    Args:
      module: the classifier, or a function that makes it of its random streams.
      mode: a keyword of `__call__` beside what `train()` and `eval()` set; see `from_linen`.

    Returns:
      The `Model`. Of a module, `init(key, x)` returns the numbers that it held when it was wrapped,
      whatever the key; of a function, it makes a module and so draws them anew.

    Raises:
      TypeError: neither, or a function that makes no NNX module.
      ValueError: `__call__` takes no keyword `mode`. `apply` raises it in training mode where
        `key` is None though the module has random streams, and for statistics in a layer without
        `axis_name`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxrobust import models
      >>> model = models.from_nnx(lambda rngs: nnx.Linear(4, 3, rngs=rngs))
      >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 4)))
      >>> model.logits_fn(variables)(jnp.zeros(4)).shape
      (3,)
    """
    if isinstance(module, nnx.Module):
        kind, parts = type(module), _parts(module)
        init: Callable[..., Variables] = OwnValues(parts.variables)
    else:
        made = nnx.eval_shape(lambda: _made(module, jax.random.key(0)))
        kind, parts = type(made), _parts(made)
        init = _drawing(module)
    modes = find_modes(kind.__call__, mode, owner=f"{kind.__name__}.__call__")
    return Model(init, _apply(parts.graph, parts.streams, modes))


def _drawing(make: Callable[[nnx.Rngs], nnx.Module]) -> Callable[..., Variables]:
    def init(key: Key, x: Array) -> Variables:
        del x
        return _parts(_made(make, key)).variables

    return init


def _made(make: Callable[[nnx.Rngs], nnx.Module], key: Key) -> nnx.Module:
    made = make(nnx.Rngs(key)) if callable(make) else make
    if not isinstance(made, nnx.Module):
        told = "a function that makes " if callable(make) else ""
        raise TypeError(
            "from_nnx takes an NNX module, or a function of nnx.Rngs that makes one; got "
            f"{told}{type(made).__name__}"
        )
    return made


def _parts(module: nnx.Module) -> Parts:
    # A copy in evaluation mode: the graph does not depend on the mode it was left in.
    copy = nnx.clone(module)
    copy.eval()
    nnx.pop(copy, nnx.Intermediate)
    graph, params, random, stats = _split(copy)
    streams = tuple(
        Stream(tuple(path), isinstance(leaf, nnx.RngKey), leaf.shape)
        for path, leaf in nnx.to_flat_state(random)
    )
    return Parts(graph, streams, Variables(nnx.to_pure_dict(params), nnx.to_pure_dict(stats)))


def _split(module: nnx.Module) -> tuple[nnx.GraphDef, nnx.State, nnx.State, nnx.State]:
    """The module's structure, parameters, random streams, and everything else."""
    graph, params, random, stats = nnx.split(module, nnx.Param, nnx.RngState, ...)
    return graph, params, random, stats


@remembered
def _apply(
    graph: nnx.GraphDef, streams: tuple[Stream, ...], modes: Modes
) -> Callable[..., tuple[Array, PyTree]]:
    def apply(
        variables: Variables,
        x: Array,
        *,
        train: bool = False,
        key: Key | None = None,
        axes: tuple[str, ...] = (),
    ) -> tuple[Array, PyTree]:
        if train and streams and key is None:
            raise ValueError(
                "this NNX module has random streams, such as dropout's: training mode needs a `key`"
            )
        seeded = _seeded(streams, jax.random.key(0) if key is None else key)
        network: Any = nnx.merge(graph, variables.params, seeded, variables.stats)
        if train:
            network.train()
            _average(network, axes)
        else:
            network.eval()
        logits = network(x, **keywords(modes, train))
        if not train:
            return logits, variables.stats
        nnx.pop(network, nnx.Intermediate)
        return logits, nnx.to_pure_dict(_split(network)[3])

    return apply


def _seeded(streams: tuple[Stream, ...], key: Key) -> dict[Any, Any]:
    """The streams' numbers at their start, each drawn from `key`, as nested dicts."""
    root: dict[Any, Any] = {}
    for place, (path, is_key, shape) in enumerate(streams):
        own = jax.random.fold_in(key, place)
        within = root
        for name in path[:-1]:
            within = within.setdefault(name, {})
        drawn = jax.random.split(own, shape) if shape else own
        within[path[-1]] = drawn if is_key else jnp.zeros(shape, jnp.uint32)
    return root


def _average(network: nnx.Module, axes: tuple[str, ...]) -> None:
    """Has every layer with batch statistics average them over the mapped axes, and no others."""
    for path, layer in nnx.iter_modules(network):
        if not any(isinstance(part, nnx.BatchStat) for part in vars(layer).values()):
            continue
        if hasattr(layer, "axis_name"):
            cast(Any, layer).axis_name = tuple(axes) or None
        elif axes:
            raise ValueError(
                f"{type(layer).__name__} at {'/'.join(map(str, path)) or 'the top'} has batch "
                "statistics that cannot be averaged over the mapped axes "
                f"{tuple(axes)}. Add to its __init__:\n"
                "    self.axis_name = None\n"
                "and where it has the mean of its batch:\n"
                "    if self.axis_name:\n"
                "        mean = jax.lax.pmean(mean, self.axis_name)"
            )
