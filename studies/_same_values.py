"""Whether two values are the same, however deep, where one was made again from the source of the other."""

import dis
import functools
import math
import pathlib
import types
from collections.abc import Mapping
from typing import Any

FUNCTIONS = (types.FunctionType, types.MethodType, types.BuiltinFunctionType, functools.partial)
# What Python notes of a class beside what it does.
_NOTED = ("__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__annotations__", "_abc_impl")
_PLAIN = (type(None), bool, int, float, complex, str, bytes, pathlib.PurePath)


class SameValues:
    """Compares, and goes through each pair once."""

    def __init__(self, names: Mapping[str, str]) -> None:
        """names: {full name here: full name there} of functions and classes that were made again."""
        self._names = names
        self._seen: set[tuple[int, int]] = set()

    def difference(self, name: str, one: Any, other: Any) -> str | None:
        """What is different, as a clause about `name`; None where nothing is."""
        if one is other or (id(one), id(other)) in self._seen:
            return None
        self._seen.add((id(one), id(other)))
        if isinstance(one, type) and isinstance(other, type):
            same = self._renamed(one) == _full_name(other)
            return None if same else f"{name} is {one.__qualname__}, and will be {other.__qualname__}"
        if self._renamed(type(one)) != _full_name(type(other)):
            return f"{name} is {_shown(one)}, and will be {_shown(other)}"
        return self._of_one_type(name, one, other)

    def of_class(self, name: str, one: type, other: type) -> str | None:
        """The same of the attributes and methods of two classes, of which the names say that they are one."""
        if len(one.__bases__) != len(other.__bases__):
            return f"{name} has other base classes"
        kept = [{key: value for key, value in vars(each).items() if key not in _NOTED} for each in (one, other)]
        bases = zip(one.__bases__, other.__bases__, strict=True)
        return next(filter(None, (self.difference(f"a base class of {name}", *pair) for pair in bases)), None) or (
            self._of_mappings(name, kept[0], kept[1], "{}.{}")
        )

    def _of_one_type(self, name: str, one: Any, other: Any) -> str | None:
        import numpy
        import torch

        if torch.is_tensor(one):
            return None if same_tensors(one, other) else f"{name} holds other numbers"
        if isinstance(one, numpy.ndarray):
            same = (one.dtype, one.shape) == (other.dtype, other.shape) and one.tobytes() == other.tobytes()
            return None if same or one.dtype.hasobject else f"{name} holds other numbers"
        if isinstance(one, (types.MethodType, staticmethod, classmethod)):
            return self.difference(name, one.__func__, other.__func__)
        if isinstance(one, property):
            parts = [(each.fget, each.fset, each.fdel) for each in (one, other)]
            return self.difference(name, *parts)
        if isinstance(one, types.FunctionType):
            return self._of_functions(name, one, other)
        if isinstance(one, functools.partial):
            called = [(each.func, each.args, each.keywords) for each in (one, other)]
            return self.difference(f"what {name} calls", *called)
        if isinstance(one, Mapping):
            return self._of_mappings(name, one, other, "{}[{!r}]")
        if isinstance(one, (list, tuple)):
            if len(one) != len(other):
                return f"{name} has {len(one)} items, and will have {len(other)}"
            pairs = zip(one, other, strict=True)
            return next(filter(None, (self.difference(f"{name}[{i}]", *pair) for i, pair in enumerate(pairs))), None)
        if isinstance(one, (set, frozenset)):
            told = [sorted(map(repr, each)) for each in (one, other) if all(isinstance(item, _PLAIN) for item in each)]
            same = told[0] == told[1] if len(told) == 2 else len(one) == len(other)
            return None if same else f"{name} is {_shown(one)}, and will be {_shown(other)}"
        if isinstance(one, _PLAIN):
            same = one == other or (isinstance(one, float) and math.isnan(one) and math.isnan(other))
            return None if same else f"{name} is {_shown(one)}, and will be {_shown(other)}"
        if hasattr(one, "__dict__"):
            return self._of_mappings(name, vars(one), vars(other), "{}.{}")
        return None  # a lock, say, of which there is nothing to tell

    def _of_mappings(self, name: str, one: Mapping[Any, Any], other: Mapping[Any, Any], called: str) -> str | None:
        if not all(isinstance(key, _PLAIN) for key in (*one, *other)):
            return None if len(one) == len(other) else f"{name} has {len(one)} items, and will have {len(other)}"
        for key in {**one, **other}:
            said = called.format(name, key)
            if key not in one or key not in other:
                return f"{said} is {'not ' if key not in one else ''}there, and will {'' if key in other else 'not '}be"
            if found := self.difference(said, one[key], other[key]):
                return found
        return None

    def _of_functions(self, name: str, one: Any, other: Any) -> str | None:
        if not _same_code(one.__code__, other.__code__):
            return f"{name} does not do what its source says now"
        if found := self._of_mappings(name, _defaults(one), _defaults(other), "the default of {}'s {}"):
            return found
        if found := self._of_mappings(name, vars(one), vars(other), "{}.{}"):
            return found
        kept = [_enclosed(each) for each in (one, other)]
        for free in kept[0]:
            if free in kept[1] and (found := self.difference(f"{free} in {name}", kept[0][free], kept[1][free])):
                return found
        return None

    def _renamed(self, kind: type) -> str:
        full = _full_name(kind)
        for here, there in self._names.items():
            if full == here or full.startswith(f"{here}."):
                return there + full.removeprefix(here)
        return full


def same_tensors(one: Any, other: Any) -> bool:
    """Whether two tensors are equal to the bit, NaNs too, wherever they lie."""
    import torch

    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    bits = [each.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for each in (one, other)]
    return torch.equal(*bits)


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, (*_PLAIN, list, tuple, dict, set)) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"another {type(value).__name__}"


def _defaults(function: Any) -> dict[str, Any]:
    given, code = function.__defaults__ or (), function.__code__
    names = code.co_varnames[code.co_argcount - len(given) : code.co_argcount]
    return dict(zip(names, given, strict=True)) | (function.__kwdefaults__ or {})


def _enclosed(function: Any) -> dict[str, Any]:
    """What a function has from around it; of the class that it is in, nothing."""
    found = {}
    for free, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[free] = cell.cell_contents
        except ValueError:
            continue  # nothing yet
    return {free: value for free, value in found.items() if free != "__class__"}


def _same_code(one: Any, other: Any) -> bool:
    """Whether two code objects do the same. What one has from around it may be a global of the other."""
    arguments = [(each.co_argcount, each.co_posonlyargcount, each.co_kwonlyargcount) for each in (one, other)]
    if arguments[0] != arguments[1] or len(one.co_consts) != len(other.co_consts):
        return False
    for a, b in zip(one.co_consts, other.co_consts, strict=True):
        codes = isinstance(a, types.CodeType), isinstance(b, types.CodeType)
        if codes[0] != codes[1] or not (_same_code(a, b) if codes[0] else (type(a) is type(b) and repr(a) == repr(b))):
            return False
    if one.co_freevars == other.co_freevars:
        return _steps(one) == _steps(other)
    used = [{*each.co_names, *each.co_freevars} for each in (one, other)]
    return used[0] == used[1] and bool(one.co_varnames == other.co_varnames)


def _steps(code: types.CodeType) -> list[Any]:
    """Its instructions. What is called is looked up in another way where the same file imports it."""
    jumps, of_calls = {*dis.hasjrel, *dis.hasjabs}, ("PUSH_NULL", "PRECALL", "NOP", "EXTENDED_ARG")
    return [
        (each.opname.replace("METHOD", "ATTR"), None if each.opcode in jumps else _without_code(each.argval))
        for each in dis.get_instructions(code)
        if each.opname not in of_calls
    ]


def _without_code(value: Any) -> Any:
    return None if isinstance(value, types.CodeType) else value
