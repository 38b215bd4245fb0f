"""What bounds refuse: the error, and what it tells a user to do instead."""

from __future__ import annotations


class UnsupportedOperation(ValueError):  # noqa: N818
    """The function holds an operation that is neither affine nor has a relaxation."""


MEND = (
    "use the activations of jax.nn, exp, log, sqrt, sin, cos, erf, powers, products, quotients, "
    "max, min, pooling, softmax and logsumexp as jax.nn and jax.numpy spell them, or register a "
    "relaxation of the activation with jaxrobust.duals.register"
)
"""The end of a refusal."""


def inside(caller: str) -> str:
    """Where in a user's program: " in 'layer/gelu'", or nothing."""
    return f" in {caller!r}" if caller else ""
