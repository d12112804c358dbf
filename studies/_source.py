"""The source that a function needs to run elsewhere: its own, and that of all it uses and no package has."""

import ast
import builtins
import inspect
import linecache
import math
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

    def __init__(self) -> None:
        self.imports: dict[str, None] = {}
        self.definitions: dict[str, str] = {}

    def text(self) -> str:
        """All of it, imports first."""
        return "\n".join(self.imports) + "\n\n" + "\n\n\n".join(self.definitions.values()) + "\n"

    def add(self, what: Any, name: str, where: str) -> None:
        """Have `name` stand for `what`, which `where` uses. Raises UserError for what has no source."""
        if name in self.definitions:
            return
        if isinstance(what, types.ModuleType):
            if not _is_installed(what):
                raise UserError(f"{where} uses {name}, a module of this session: {HINT}, so import it from a file")
            self.imports[f"import {what.__name__} as {name}"] = None
        elif (imported := _import_of(what, name)) is not None:
            self.imports[imported] = None
        elif inspect.isfunction(what) or inspect.isclass(what):
            self._define(what, name, where)
        elif (written := _literal(what)) is not None:
            if "Path(" in written:
                self.imports["from pathlib import Path"] = None
            self.definitions[name] = f"{name} = {written}"
        else:
            raise UserError(
                f"{where} uses {name}, a {type(what).__name__}: {HINT}, so take it from `pipelines`, or make it inside "
                "the function"
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
        tree = ast.parse(source)
        self.definitions[name] = ""  # in its place already, because functions may call themselves
        for used, value in _globals_of(what, tree, name):
            self.add(value, used, name)
        del self.definitions[name]
        self.definitions[name] = (
            source.rstrip() if what.__name__ == name else f"{source.rstrip()}\n\n\n{name} = {what.__name__}"
        )


def _class_source(what: Any) -> str | None:
    """The source of a class in a notebook's cell: Python finds that of its methods, and nothing of the class."""
    for method in vars(what).values() if inspect.isclass(what) else ():
        if not inspect.isfunction(method):
            continue
        text = "".join(linecache.getlines(method.__code__.co_filename))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef) and node.name == what.__name__:
                return textwrap.dedent(ast.get_source_segment(text, node) or "")
    return None


def _globals_of(what: Any, tree: ast.AST, name: str) -> Iterator[tuple[str, Any]]:
    """What a function or class looks up outside of itself: {name: value}, in the order of use."""
    if inspect.isfunction(what):
        outside = dict(what.__globals__)
        outside |= {
            free: cell.cell_contents
            for free, cell in zip(what.__code__.co_freevars, what.__closure__ or (), strict=True)
        }
    else:
        outside = vars(sys.modules[what.__module__])
    bound = {one.arg for one in ast.walk(tree) if isinstance(one, ast.arg)}
    bound |= {one.id for one in ast.walk(tree) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}
    loaded = [one.id for one in ast.walk(tree) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Load)]
    for used in dict.fromkeys(loaded):
        if used == name or used in bound:
            continue
        if used in outside:
            yield used, outside[used]
        elif not hasattr(builtins, used):
            raise UserError(f"{name} uses {used}, which is defined nowhere")


def _import_of(what: Any, name: str) -> str | None:
    """The import that gives a class, function or constant of an installed module; None where there is none."""
    module, qualified = getattr(what, "__module__", None), getattr(what, "__qualname__", None)
    if type(what).__module__ == "torch" and type(what).__name__ in ("dtype", "device"):
        return (
            f"import torch; {name} = torch.{str(what).removeprefix('torch.')}"
            if "dtype" in type(what).__name__
            else None
        )
    if not isinstance(module, str) or not isinstance(qualified, str) or "." in qualified:
        return None
    found = sys.modules.get(module)
    if found is None or not _is_installed(found) or getattr(found, qualified, None) is not what:
        return None
    return f"from {module} import {qualified}" + ("" if qualified == name else f" as {name}")


def _is_installed(module: types.ModuleType) -> bool:
    """Whether another process can import it: of a package or the standard library, not of this session."""
    if module.__name__ == "__main__":
        return False
    file = getattr(module, "__file__", None)
    if file is None:
        return module.__name__.partition(".")[0] in sys.stdlib_module_names or hasattr(module, "__path__")
    standard = Path(sys.modules["os"].__file__ or "").parent
    return "site-packages" in Path(file).parts or Path(file).is_relative_to(standard)


def _literal(value: Any) -> str | None:
    """A constant as it is written in Python; None for what is none."""
    if isinstance(value, Path):
        return f"Path({str(value)!r})"
    if value is None or isinstance(value, (bool, int, str, bytes)):
        return repr(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else f'float("{value}")'
    if type(value) in (list, tuple, set):
        items = [_literal(item) for item in value]
        if any(item is None for item in items):
            return None
        inner = ", ".join(str(item) for item in items)
        if type(value) is tuple:
            return f"({inner}{',' if len(items) == 1 else ''})"
        return f"[{inner}]" if type(value) is list else f"{{{inner}}}" if items else "set()"
    if type(value) is dict:
        pairs = [(_literal(key), _literal(item)) for key, item in value.items()]
        if any(None in pair for pair in pairs):
            return None
        return "{" + ", ".join(f"{key}: {item}" for key, item in pairs) + "}"
    return None
