"""The type of a device, in the form that annotations take."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # `jax.Device` is this class, under a name that type checkers take for a variable
    from jaxlib._jax import Device as Device
else:
    from jax import Device as Device

__all__ = ["Device"]
