"""What functions and objects are made of, as JSON: the numbers in closures, and code.

`fingerprint.describe` refuses what may hide numbers; this looks for them. The answer is the same in
every process: nothing depends on addresses, on a session's hashes, or on the devices there are.
"""

from __future__ import annotations

import dataclasses
import dis
import enum
import functools
import hashlib
import math
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.fingerprint import KIND, fingerprint

CODE, READS = "(code)", "(reads)"
"""Beside `KIND`, names in a description that no variable can have."""

Tell = Callable[[Any], Any]
"""Describes a part."""

_SCALARS = (bool, int, float, complex, str, bytes, range, slice, np.dtype)
_ARRAYS = (np.ndarray, np.generic, jax.Array)
_CONTAINERS = (dict, types.MappingProxyType)
_PLACES = (jax.Device, jax.sharding.Mesh, jax.sharding.Sharding, types.ModuleType)


def contents(value: Any) -> Any:
    """The numbers, texts, arrays and functions that `value` is made of, by name, as JSON.

    Library functions count by their name and what their closures hold; one's own also by their
    code, their defaults, and the module-level numbers, texts, tuples, arrays and functions that
    they read. Dataclasses and objects count by their fields. What shows nothing, such as an
    iterator, an open file or a device, counts by its type alone.
    """
    return _told(value, ())


def _told(value: Any, above: tuple[int, ...]) -> Any:
    if isinstance(value, _ARRAYS):
        return _array(value)
    if isinstance(value, enum.Enum):
        return f"{type(value).__qualname__}.{value.name}"
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, _SCALARS):
        # NaN differs from itself, and JSON has no infinities.
        return value if isinstance(value, float) and math.isfinite(value) else repr(value)
    if id(value) in above:
        return "(itself)"
    return _parts(value, lambda part: _told(part, (*above, id(value))))


def _parts(value: Any, tell: Tell) -> Any:
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {KIND: type(value).__qualname__, **_named(cast(Any, value)._asdict(), tell)}
    if isinstance(value, tuple | list):
        return {str(place): tell(part) for place, part in enumerate(value)}
    if isinstance(value, set | frozenset):
        return sorted((tell(part) for part in value), key=repr)
    if isinstance(value, _CONTAINERS):
        return _named(value, tell)
    if isinstance(value, functools.partial):
        given = {"function": value.func, "arguments": value.args, **value.keywords}
        return {KIND: "partial", **_named(given, tell)}
    if isinstance(value, types.MethodType):
        return {KIND: value.__func__.__qualname__, "self": tell(value.__self__)}
    if isinstance(value, types.FunctionType):
        return _function(value, tell)
    if isinstance(value, type):
        return _class(value, tell)
    if isinstance(value, _PLACES):
        return {KIND: type(value).__qualname__}
    return _public_name(value) or _object(value, tell)


def _named(parts: Mapping[Any, Any], tell: Tell) -> dict[str, Any]:
    return {str(name): tell(part) for name, part in parts.items()}


def _array(value: Any) -> Any:
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        # Spread over processes: only what all of them have can be read here.
        if not value.is_fully_replicated:
            return f"{value.dtype}{list(value.shape)}"
        value = value.addressable_data(0)
    is_key = jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    if value.ndim == 0 and not is_key:
        return _told(value.item(), ())
    return f"{value.dtype}{list(value.shape)} {fingerprint(value)}"


def _function(function: types.FunctionType, tell: Tell) -> Any:
    # The module of its code: a decorator may have given it another's name.
    home, code = function.__globals__.get("__name__"), function.__code__
    if _is_library(home) and (name := _public_name(function)):
        return name
    parts = zip(code.co_freevars, function.__closure__ or (), strict=True)
    held = {name: cell.cell_contents for name, cell in parts if not _is_empty(cell)}
    held |= {f"default {place}": part for place, part in enumerate(function.__defaults__ or ())}
    held |= {f"default {name}": part for name, part in (function.__kwdefaults__ or {}).items()}
    if _is_library(home):
        return {KIND: f"{home}.{code.co_qualname}", **_named(held, tell)}
    # Without its module, which is called otherwise where it is the main program.
    told = {KIND: code.co_qualname, CODE: _digest(code, function.__doc__), **_named(held, tell)}
    reads = {name: tell(part) for name, part in _globals(function)}
    return told | ({READS: reads} if reads else {})


def _class(kind: type, tell: Tell) -> Any:
    if _is_library(kind.__module__):
        return f"{kind.__module__}.{kind.__qualname__}"
    # What other special methods do shows in an object's fields.
    written = {
        name: part
        for name, part in vars(kind).items()
        if isinstance(part, types.FunctionType) and (name == "__call__" or name[:2] != "__")
    }
    bases = {base.__qualname__: base for base in kind.__bases__ if base is not object}
    return {KIND: kind.__qualname__, **_named(written | bases, tell)}


def _object(value: Any, tell: Tell) -> Any:
    kind, parts = type(value), getattr(value, "__dict__", {})
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        parts = {name: getattr(value, name, None) for name in names}
    elif "__wrapped__" in parts:
        # Compiled or decorated: the rest is bookkeeping, such as the lines of a file.
        parts = {"function": parts["__wrapped__"]}
    elif _is_standard(kind.__module__):
        parts = {}
    shown = {name: part for name, part in parts.items() if not str(name).startswith("__")}
    return {KIND: tell(kind), **_named(shown, tell)}


def _public_name(value: Any) -> str | None:
    """The name of a library's callable, such as a compiled function; None where it has none."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not (callable(value) and isinstance(module, str) and isinstance(name, str)):
        return None
    return f"{module}.{name}" if "<" not in name and _is_library(module) else None


def _globals(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """What the function reads of its module, but for what is there to change, such as a list."""
    kinds = (*_SCALARS, *_ARRAYS, tuple, frozenset, type, types.FunctionType, functools.partial)
    for name in sorted(set(_read(function.__code__))):
        value = function.__globals__.get(name)
        wrapped = callable(value) and hasattr(value, "__wrapped__")
        if isinstance(value, kinds) or wrapped or dataclasses.is_dataclass(value):
            yield name, value


def _read(code: types.CodeType) -> Iterator[str]:
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield step.argval
    for part in code.co_consts:
        if isinstance(part, types.CodeType):
            yield from _read(part)


def _digest(code: types.CodeType, doc: str | None = None) -> str:
    """A fingerprint of what the code does, wherever it stands.

    Of the bytecode, which a new Python changes.
    """
    digest = hashlib.sha256()

    def add(code: types.CodeType, doc: str | None) -> None:
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        digest.update(code.co_code + repr((names, code.co_argcount, code.co_flags)).encode())
        for part in code.co_consts:
            if isinstance(part, types.CodeType):
                add(part, None)
            elif isinstance(part, frozenset):
                digest.update(repr(sorted(map(repr, part))).encode())
            elif part is None or part != doc:
                digest.update(repr(part).encode())

    add(code, doc)
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return f"{digest.hexdigest()[:16]} in Python {python}"


def _is_empty(cell: types.CellType) -> bool:
    """Whether the variable has no value yet."""
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return True
    return False


def _is_standard(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names


@functools.lru_cache(maxsize=256)
def _is_library(module: str | None) -> bool:
    """Whether the module is Python's, ours, or an installed one: known by its names."""
    root = (module or "").partition(".")[0]
    if root == __name__.partition(".")[0] or root in sys.stdlib_module_names or root == "builtins":
        return True
    found = sys.modules.get(root)
    places = [getattr(found, "__file__", None) or "", *map(str, getattr(found, "__path__", ()))]
    return any(part in place for place in places for part in ("site-packages", "dist-packages"))
