"""What `torch.save` pickles, read by a table of its few operations: nothing of the file ever runs.

A pickle is a program; Python's `pickle` calls whatever it names. Here no name is ever looked up:
the handful that tensors need are recognized by their text, and any other is an error.
"""

from __future__ import annotations

import pickletools
from typing import IO, Any, NamedTuple

STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
"""PyTorch's storages by name, and the type of their numbers."""

MOST_AXES = 8
"""Axes that a tensor may have."""


class Storage(NamedTuple):
    """Numbers in a row, by where they lie in the file."""

    dtype: str
    key: str
    count: int


class TensorRecord(NamedTuple):
    """A tensor as the file describes it: a view of a storage, whose numbers are not yet read."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Name(NamedTuple):
    """The text of a name that the pickle asks for."""

    module: str
    name: str


_TENSOR = _Name("torch._utils", "_rebuild_tensor_v2")
_PARAMETER = _Name("torch._utils", "_rebuild_parameter")
_DICTIONARY = _Name("collections", "OrderedDict")
_KNOWN = {_TENSOR, _PARAMETER, _DICTIONARY, *(_Name("torch", name) for name in STORAGES)}


class Pickled(NamedTuple):
    """What a pickle describes, and the storages that it refers to by their keys.

    Dictionaries, lists, tuples, text and numbers are themselves, tensors are `TensorRecord`s.
    """

    content: Any
    storages: dict[str, Storage]


def interpret(stream: IO[bytes]) -> Pickled:
    """Reads the pickle at the stream's position, and no byte beyond it.

    Raises:
      ValueError: an operation or a name that tensors do not need; the message names it. What
        broken bytes raise is not defined beyond being an `Exception`.
    """
    machine = _Machine()
    for code, argument, _ in pickletools.genops(stream):
        if code.name == "STOP":
            return Pickled(machine.stack.pop(), machine.storages)
        machine.do(code.name, argument)
    raise ValueError("its pickle has no end")


class _Machine:
    """A stack, the marks on it, what was remembered, and the storages that were named."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def do(self, operation: str, argument: Any) -> None:
        """Carries out one operation."""
        stack = self.stack
        match operation:
            case "PROTO" | "FRAME":
                pass
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[operation])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE":
                stack.append(argument)
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append({"EMPTY_DICT": {}, "EMPTY_LIST": [], "EMPTY_TUPLE": ()}[operation])
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(operation[-1])
                stack.append(tuple([stack.pop() for _ in range(size)][::-1]))
            case "MARK":
                self.marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(self.marked()))
            case "APPEND" | "APPENDS":
                values = [stack.pop()] if operation == "APPEND" else self.marked()
                _expect(list, stack[-1]).extend(values)
            case "SETITEM" | "SETITEMS":
                pairs = [stack.pop(-2), stack.pop()] if operation == "SETITEM" else self.marked()
                for key, value in zip(pairs[::2], pairs[1::2], strict=True):
                    _expect(dict, stack[-1])[_expect(str | int | float, key)] = value
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "GLOBAL":
                stack.append(_known(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                module, name = stack.pop(-2), stack.pop()
                stack.append(_known(_expect(str, module), _expect(str, name)))
            case "BINPERSID":
                storage = _storage(stack.pop())
                if self.storages.setdefault(storage.key, storage) != storage:
                    raise ValueError(f"its storage {storage.key!r} is described in two ways")
                stack.append(storage)
            case "REDUCE":
                called, arguments = stack.pop(-2), _expect(tuple, stack.pop())
                stack.append(_call(_expect(_Name, called), arguments))
            case "BUILD":
                # Attributes of a state dict: the versions of its modules.
                stack.pop()
                _expect(dict, stack[-1])
            case _:
                raise ValueError(f"its pickle holds the operation {operation}, which no tensor is")

    def marked(self) -> list[Any]:
        """Takes what lies above the last mark off the stack."""
        mark = self.marks.pop()
        values = self.stack[mark:]
        del self.stack[mark:]
        return values


def _expect(kind: Any, value: Any) -> Any:
    if not isinstance(value, kind):
        wanted = getattr(kind, "__name__", kind)
        raise ValueError(f"its pickle holds a {type(value).__name__} where it must be {wanted}")
    return value


def _known(module: str, name: str) -> _Name:
    asked = _Name(module, name)
    if asked not in _KNOWN:
        raise ValueError(
            f"it asks for {module}.{name}, and only tensors, dictionaries and numbers are read; "
            "nothing was run. If you trust the file, load it in PyTorch and save the weights "
            "alone: torch.save(model.state_dict(), path)"
        )
    return asked


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValueError("its pickle holds a size, an offset or a stride that is none")
    return value


def _storage(told: Any) -> Storage:
    word, kind, key, _, count, *view = _expect(tuple, told)
    if word != "storage" or any(part is not None for part in view):
        raise ValueError("its pickle refers to something that is no storage")
    name = _expect(_Name, kind).name
    if name not in STORAGES:
        raise ValueError(f"its pickle holds a storage of the kind {name}")
    return Storage(STORAGES[name], _expect(str, key), _count(count))


def _call(called: _Name, arguments: tuple[Any, ...]) -> Any:
    if called == _TENSOR:
        storage, offset, shape, strides, *_ = arguments
        shape, strides = (tuple(map(_count, _expect(tuple, part))) for part in (shape, strides))
        if len(shape) != len(strides) or len(shape) > MOST_AXES:
            raise ValueError(f"a tensor has {len(shape)} axes and {len(strides)} strides")
        return TensorRecord(_expect(Storage, storage), _count(offset), shape, strides)
    if called == _PARAMETER:
        return _expect(TensorRecord, arguments[0])
    if called == _DICTIONARY and not arguments:
        return {}
    raise ValueError(f"its pickle calls {called.module}.{called.name} in a way that is not read")
