"""Imports Python files by their path: the workload, apply.py, and this package where it lies beside them."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def load_file(path: Path, name: str) -> ModuleType:
    """Import a Python file under the given name; for a package, its `__init__.py`.

    Raises ImportError for what is not a Python file, FileNotFoundError for what does not exist.
    """
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def find_apply(folder: Path) -> Path:
    """apply.py in a trial's folder, or in the folder above a bundle's `check/`."""
    beside = folder / "apply.py"
    return beside if beside.is_file() else folder.parent / "apply.py"
