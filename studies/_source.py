"""The source that a function needs to run elsewhere: its own, and that of all it uses and no package has."""

import ast
import builtins
import inspect
import linecache
import math
import symtable
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ._errors import UserError

HINT = "paretune has to write the function into a file of its own, which trials and bundles run"


class Source:
    """Collects definitions, each once, in an order in which they can be executed."""

    def __init__(self, *reserved: str) -> None:
        """reserved: names that something else in the file has."""
        self.imports: dict[str, None] = {}
        self.definitions: dict[str, str] = {}
        self.written: dict[str, str] = {}
        """{full name here: name in the text} of the functions and classes whose source it has."""
        self.made: dict[str, Any] = {}
        """{name in the text: the function or class}."""
        self._aliases: dict[str, list[str]] = {}
        self._names: dict[str, tuple[Any, str]] = {name: (object(), "paretune has") for name in reserved}

    def text(self) -> str:
        """All of it, imports first."""
        parts = []
        for name, source in self.definitions.items():
            parts += [source, *(f"{alias} = {name}" for alias in self._aliases.get(name, ()))]
        return "\n".join(self.imports) + "\n\n" + "\n\n\n".join(parts) + "\n"

    def add(self, what: Any, name: str, where: str) -> None:
        """Have `name` stand for `what`, which `where` uses.

        Raises UserError for what has no source, and where the name stands for something else already: what comes from
        several files has one place for each name here.
        """
        if not self._take(what, name, f"{where} uses"):
            return
        if what is getattr(builtins, name, self):
            return
        if isinstance(what, types.ModuleType):
            if not is_installed(what):
                raise UserError(f"{where} uses {name}, a module of this session: {HINT}, so import it from a file")
            self.imports[f"import {what.__name__} as {name}"] = None
        elif type(what).__module__ == "torch" and type(what).__name__ == "dtype":
            self.add(sys.modules["torch"], "torch", where)
            self.definitions[name] = f"{name} = {what}"
        elif (imported := _import_of(what, name)) is not None:
            self.imports[imported] = None
        elif inspect.isfunction(what) or inspect.isclass(what):
            self._define(what, name, where)
        elif (written := _literal(what)) is not None:
            if "Path(" in written:
                self.add(Path, "Path", where)
            self.definitions[name] = f"{name} = {written}"
        else:
            raise UserError(
                f"{where} uses {name}, a {type(what).__name__}: {HINT}, so take it from `pipelines`, or make it inside "
                "the function"
            )

    def _take(self, what: Any, name: str, who: str) -> bool:
        """Whether the name was free; it is taken now. Raises UserError where it stands for something else."""
        if name not in self._names:
            self._names[name] = (what, who)
            return True
        known, other = self._names[name]
        # Numbers and texts are equal wherever they come from. 1 and True are not: they are written differently.
        if known is what or _literal(known) == _literal(what) is not None:
            return False
        raise UserError(
            f"two different things are called {name}, one that {other} and one that {who}: {HINT}, "
            "so rename one of them"
        )

    def _define(self, what: Any, name: str, where: str) -> None:
        if what.__name__ == "<lambda>":
            raise UserError(f"{where} uses a lambda: {HINT}, so write it with def")
        try:
            source = textwrap.dedent(inspect.getsource(what))
        except (OSError, TypeError):
            source = _class_source(what) or ""
        if not source:
            raise UserError(f"the source of {name}, which {where} uses, cannot be found: {HINT}")
        try:
            tree, looked_up = ast.parse(source), _looked_up(source)
            own: str = tree.body[0].name  # type: ignore[attr-defined]  # which __name__ need not be
        except (SyntaxError, AttributeError):
            raise UserError(
                f"the source of {name}, which {where} uses, is part of something larger: {HINT}, so write it with def "
                "or class at the top of a file or cell"
            ) from None
        if inspect.isfunction(what) and not _makes(tree, what):
            raise UserError(
                f"{where} uses {name}, around which a decorator has put something that is not in its source: {HINT}, "
                "so write what the decorator does into the function"
            )
        if own != name:
            # Its source defines it under its own name, which others may use too.
            self._aliases.setdefault(own, []).append(name)
            if not self._take(what, own, f"{where} uses as {name}"):
                return
        for used, value in _values(what, own, looked_up):
            self.add(value, used, own)
        self.definitions[own] = source.rstrip()
        self.written[f"{what.__module__}.{what.__qualname__}"] = own
        self.made[own] = what


def _makes(tree: ast.Module, what: Any) -> bool:
    """Whether this source makes the function again: with as many decorators as have wrapped it, or with decorators of
    another kind after which its name stands for it.
    """
    plain, wrappers = what, 0
    while hasattr(plain, "__wrapped__"):
        plain, wrappers = plain.__wrapped__, wrappers + 1
    decorators = [each for node in tree.body for each in getattr(node, "decorator_list", ())]
    if not inspect.isfunction(plain):
        return False
    return len(decorators) == wrappers or (bool(decorators) and plain.__globals__.get(plain.__name__) is what)


def _class_source(what: Any) -> str | None:
    """The source of a class in a notebook's cell: Python finds that of its methods, and nothing of the class."""
    for method in vars(what).values() if inspect.isclass(what) else ():
        if not inspect.isfunction(method) or method.__qualname__ != f"{what.__qualname__}.{method.__name__}":
            continue
        line, lines = method.__code__.co_firstlineno, linecache.getlines(method.__code__.co_filename)
        for node in ast.walk(ast.parse("".join(lines))):
            if isinstance(node, ast.ClassDef) and node.name == what.__name__ and line in _lines_of(node):
                return textwrap.dedent("".join(lines[_lines_of(node).start - 1 : node.end_lineno]))
    return None


def _lines_of(node: ast.ClassDef) -> range:
    """With its decorators."""
    first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
    return range(first, (node.end_lineno or node.lineno) + 1)


def _looked_up(source: str) -> list[str]:
    """The names that a source looks up outside of itself, in the order of use."""
    found, tables = set(), [symtable.symtable(source, "source", "exec")]
    for table in tables:  # which grows
        tables += table.get_children()
        found |= {each.get_name() for each in table.get_symbols() if each.is_referenced() and each.is_global()}
    names = [each.id for each in ast.walk(ast.parse(source)) if isinstance(each, ast.Name)]
    return [name for name in dict.fromkeys(names) if name in found]


def _values(what: Any, own: str, names: list[str]) -> Iterator[tuple[str, Any]]:
    """(name, value) of what a function or class called `own` looks up under these names."""
    if inspect.isfunction(what):
        plain = inspect.unwrap(what)  # what a decorator has put around it looks names up in the decorator's file
        outside = dict(plain.__globals__)
        outside |= _enclosed(plain, own)
    else:
        outside = dict(vars(sys.modules[what.__module__]))
        for method in vars(what).values():
            if inspect.isfunction(plain := inspect.unwrap(getattr(method, "__func__", method))):
                outside |= _enclosed(plain, own)
    outside.setdefault(own, what)
    for used in names:
        if used in outside:
            yield used, outside[used]
        elif hasattr(builtins, used):
            yield used, getattr(builtins, used)  # there is nothing to write, but nothing else may have its name
        else:
            raise UserError(f"{own} uses {used}, which is defined nowhere")


def _enclosed(function: Any, own: str) -> dict[str, Any]:
    """What a function has from the function that it was defined in. Raises UserError for what has no value yet."""
    found = {}
    for free, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[free] = cell.cell_contents
        except ValueError:
            raise UserError(f"{own} uses {free}, which has no value yet") from None
    return found


def _import_of(what: Any, name: str) -> str | None:
    """The import that gives a class, function or constant of an installed module; None where there is none."""
    module, qualified = getattr(what, "__module__", None), getattr(what, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(qualified, str) or "." in qualified:
        return None
    found = sys.modules.get(module)
    if found is None or not is_installed(found) or getattr(found, qualified, None) is not what:
        return None
    return f"from {module} import {qualified}" + ("" if qualified == name else f" as {name}")


def is_installed(module: types.ModuleType | None) -> bool:
    """Whether another process can import it: of a package or the standard library, not of this session."""
    if module is None or module.__name__ == "__main__":
        return False
    file = getattr(module, "__file__", None)
    if file is None:
        return module.__name__.partition(".")[0] in sys.stdlib_module_names or hasattr(module, "__path__")
    standard = Path(sys.modules["os"].__file__ or "").parent
    return "site-packages" in Path(file).parts or Path(file).is_relative_to(standard)


def _literal(value: Any) -> str | None:
    """A constant as it is written in Python; None for what is none, as numbers of numpy and members of enums are."""
    if type(value) is type(Path()):
        return f"Path({str(value)!r})"
    if value is None or type(value) in (bool, int, str, bytes):
        return repr(value)
    if type(value) is float:
        return repr(value) if math.isfinite(value) else f'float("{value}")'
    if type(value) in (list, tuple, set):
        items = [_literal(item) for item in value]
        if any(item is None for item in items):
            return None
        inner = ", ".join(sorted(map(str, items)) if type(value) is set else map(str, items))
        if type(value) is tuple:
            return f"({inner}{',' if len(items) == 1 else ''})"
        return f"[{inner}]" if type(value) is list else f"{{{inner}}}" if items else "set()"
    if type(value) is dict:
        pairs = [(_literal(key), _literal(item)) for key, item in value.items()]
        if any(None in pair for pair in pairs):
            return None
        return "{" + ", ".join(f"{key}: {item}" for key, item in pairs) + "}"
    return None
