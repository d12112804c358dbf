"""The rules of the folders: which may import which, how long a file may be, and what exported code may touch."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from paretune.agent.trial.script import FLAT_FILES
from paretune.search_space import TECHNIQUES

ROOT = Path(__file__).parents[1]
FOLDERS = ("search_space", "objectives", "testing", "studies", "agent")
MAY_IMPORT: dict[str, set[str]] = {
    "search_space": set(),
    "objectives": set(),
    "testing": {"search_space", "objectives"},
    "studies": {"search_space", "objectives"},
    "agent": {"studies", "search_space", "objectives"},
}
FILES = sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))
MOST_LINES = 400
COPIED_BESIDE_APPLY = (
    "agent/trial/script.py",
    "studies/workload.py",
    *(f"objectives/{name}.py" for name in FLAT_FILES),
)
PUBLIC = {"torch", "diffusers", "torchao", "transformers", "accelerate", "numpy", "psutil", "pynvml"}


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


def imported_folders(file: Path) -> Iterator[str]:
    """The folders of ours that a file imports from, relatively or as paretune.FOLDER."""
    package = ["paretune", *file.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            targets = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            parts = target.split(".")
            if parts[0] == "paretune" and len(parts) > 1:
                yield parts[1]


def test_the_files_are_found() -> None:
    assert len(FILES) > 40
    assert set(imported_folders(ROOT / "agent" / "search" / "launch.py")) == {
        "agent",
        "studies",
        "search_space",
        "objectives",
    }


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_go_one_way(file: Path) -> None:
    folder = file.relative_to(ROOT).parts[0]
    assert set(imported_folders(file)) & set(FOLDERS) <= MAY_IMPORT[folder] | {folder}


@pytest.mark.parametrize("file", [file for file in FILES if "search_space" not in file.parts], ids=name_of)
def test_what_search_space_does_not_export_is_its_own(file: Path) -> None:
    assert not re.search(r"search_space(\.| import )_", file.read_text())


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_file_can_be_read_in_one_sitting(file: Path) -> None:
    assert len(file.read_text().splitlines()) < MOST_LINES


@pytest.mark.parametrize("name", COPIED_BESIDE_APPLY)
def test_what_is_copied_into_a_bundle_imports_nothing_of_ours(name: str) -> None:
    assert not set(imported_folders(ROOT / name))


@pytest.mark.parametrize("known", TECHNIQUES, ids=lambda known: known.name)
def test_a_technique_has_a_file_of_its_own_in_the_folder_of_its_axis(known: object) -> None:
    name, axis = known.name, known.axis  # type: ignore[attr-defined]
    assert (ROOT / "search_space" / axis / f"{name}.py").is_file()


@pytest.mark.parametrize("known", TECHNIQUES, ids=lambda known: known.name)
def test_exported_functions_import_public_libraries_only(known: object) -> None:
    for function in (known.apply, *known.helpers):  # type: ignore[attr-defined]
        file = Path(function.__code__.co_filename)
        tree = ast.parse(file.read_text())
        (definition,) = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == function.__name__]
        for node in ast.walk(definition):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0
                modules = [str(node.module)]
            elif isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            else:
                continue
            standard = sys.stdlib_module_names
            assert {module.partition(".")[0] for module in modules} <= PUBLIC | standard
