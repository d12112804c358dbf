"""Imports Python files by their path: the workload, apply.py, and this package where it lies beside them.

Always from their source. Python would take the byte code in a `__pycache__` beside a file without asking whether it
belongs to it, so what runs would not be what a person reads, nor what a manifest lists.
"""

import importlib.util
import sys
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, ExtensionFileLoader, FileFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

_folders: set[Path] = set()


class _FromSource(SourceFileLoader):
    """Compiles the source each time; byte code is neither read nor written."""

    def get_code(self, fullname: str) -> CodeType:
        """The code of a module."""
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


def only_sources(folder: Path) -> None:
    """From now on, whatever this process imports from `folder` or below it is compiled from its source."""
    folder = folder.resolve()
    if not _folders:
        sys.path_hooks.insert(0, _finder)
    _folders.add(folder)
    for known in [path for path in sys.path_importer_cache if _is_below(path, {folder})]:
        del sys.path_importer_cache[known]


def load_file(path: Path, name: str) -> ModuleType:
    """Import a Python file under the given name, and its neighbours when it asks for them; for a package, its
    `__init__.py`.

    Raises ImportError for what is not a Python file, FileNotFoundError for what does not exist.
    """
    if path.suffix not in SOURCE_SUFFIXES:
        raise ImportError(f"{path} is not a Python file")
    only_sources(path.parent)
    below = [str(path.parent)] if path.stem == "__init__" else None
    loader = _FromSource(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader, submodule_search_locations=below)
    assert spec is not None  # the loader was given
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loader.exec_module(module)
    return module


def find_apply(folder: Path) -> Path:
    """apply.py in a trial's folder, or in the folder above a bundle's `check/`."""
    beside = folder / "apply.py"
    return beside if beside.is_file() else folder.parent / "apply.py"


def apply_beside(folder: Path, pipelines: dict[str, Any], *, use_artefacts: bool = True, **how: Any) -> ModuleType:
    """Call the apply() that belongs to a folder, with the artefacts that lie beside it where there are some.

    how: what it is told about them, such as strict=True. Returns the module apply.py.
    """
    file = find_apply(folder)
    applied = load_file(file, "apply")
    artefacts = file.with_name("artefacts")
    if use_artefacts and artefacts.is_dir():
        applied.apply(pipelines, artefacts=artefacts, **how)
    else:
        applied.apply(pipelines)
    return applied


def _finder(path: str) -> FileFinder:
    """For sys.path_hooks: finds what lies in one of the folders. Raises ImportError for any other place."""
    if not _is_below(path, _folders):
        raise ImportError(path)
    return FileFinder(path, (ExtensionFileLoader, EXTENSION_SUFFIXES), (_FromSource, SOURCE_SUFFIXES))


def _is_below(path: str, folders: set[Path]) -> bool:
    try:
        place = Path(path).resolve()
    except (OSError, RuntimeError, ValueError):
        return False
    return any(place.is_relative_to(folder) for folder in folders)
