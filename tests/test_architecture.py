"""The rules of the folders: which may import which, how long a file may be, and what exported code may touch."""

import ast
import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
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
ROOMS: dict[str, set[str]] = {
    "trial": set(),
    "results": {"trial"},
    "bundle": {"trial", "results"},
    "review": {"trial", "results", "bundle"},
    "measuring": {"trial", "results", "bundle"},
    "search": {"trial", "results", "measuring"},
}
"""The rooms of agent/ in the order in which data flows, and which others each may import."""
FILES = sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))
MOST_LINES = 400
MEASURING = sorted((ROOT / "objectives" / "measuring").glob("*.py"))
COPIED_BESIDE_APPLY = (
    *(ROOT / "agent" / "trial" / "script.py", ROOT / "agent" / "bundle" / "trust.py"),
    *(ROOT / "studies" / "workload.py", *MEASURING),
)
PUBLIC = {
    "PIL",
    "torch",
    "diffusers",
    "torchao",
    "transformers",
    "accelerate",
    "numpy",
    "psutil",
    "pynvml",
    "cryptography",
}
OPTIONAL = {"sfast", "torch_tensorrt", "cache_dit"}
"""What some techniques alone need; they say so in their packages."""


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


def imported(file: Path) -> Iterator[str]:
    """Everything of ours that a file imports, in full: "paretune.agent.trial.Job"."""
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
        yield from (target for target in targets if target.startswith("paretune."))


def imported_folders(file: Path) -> set[str]:
    """The folders of ours that a file imports from."""
    return {target.split(".")[1] for target in imported(file)}


def room_of(parts: Sequence[str]) -> str | None:
    """The room of agent/ that a path or a dotted name is in; None for what is in none."""
    return parts[1] if len(parts) > 1 and parts[0] == "agent" and parts[1] in ROOMS else None


def package_of(parts: Sequence[str]) -> str:
    """The package that a path or a dotted name belongs to: a folder, or a room of agent/."""
    room = room_of(parts)
    return parts[0] if room is None else f"agent.{room}"


def test_the_files_are_found() -> None:
    assert len(FILES) > 40
    assert len(MEASURING) > 8
    launch = ROOT / "agent" / "search" / "launch.py"
    assert imported_folders(launch) == {"agent", "studies", "search_space"}
    assert "paretune.agent.measuring.StudyRuns" in imported(launch)
    assert {file.parent.name for file in (ROOT / "agent").glob("*/__init__.py")} == set(ROOMS)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_go_one_way(file: Path) -> None:
    folder = file.relative_to(ROOT).parts[0]
    assert imported_folders(file) & set(FOLDERS) <= MAY_IMPORT[folder] | {folder}


@pytest.mark.parametrize("file", [file for file in FILES if room_of(file.relative_to(ROOT).parts)], ids=name_of)
def test_the_arrows_between_the_rooms_of_agent_go_one_way(file: Path) -> None:
    room = str(room_of(file.relative_to(ROOT).parts))
    for target in imported(file):
        parts = target.split(".")[1:]
        if parts[0] == "agent":
            assert room_of(parts) in ROOMS[room] | {room}, f"{name_of(file)} imports {target}"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_other_packages_are_used_by_what_they_export(file: Path) -> None:
    """A room of agent/ by its __init__, everything else by public names."""
    own = package_of(file.relative_to(ROOT).parts)
    for target in imported(file):
        parts = target.split(".")[1:]
        if package_of(parts) == own:
            continue
        assert not [part for part in parts if part.startswith("_") and not part.startswith("__")], target
        if (room := room_of(parts)) is not None:
            exported = importlib.import_module(f"paretune.agent.{room}").__all__
            assert (len(parts), parts[-1] in exported) == (3, True), f"{name_of(file)} imports {target}"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_file_can_be_read_in_one_sitting(file: Path) -> None:
    assert len(file.read_text().splitlines()) < MOST_LINES


@pytest.mark.parametrize("file", COPIED_BESIDE_APPLY, ids=name_of)
def test_what_is_copied_into_a_bundle_imports_nothing_of_ours(file: Path) -> None:
    """Within measuring/, neighbours: `from .latency import ...`. run.py finds that package beside it."""
    allowed = {*sys.stdlib_module_names, *PUBLIC, *({"measuring"} if file.name == "script.py" else ())}
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            assert {alias.name.partition(".")[0] for alias in node.names} <= allowed
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert str(node.module).partition(".")[0] in allowed
        elif isinstance(node, ast.ImportFrom):
            assert (node.level, file in MEASURING) == (1, True)


@pytest.mark.parametrize("file", COPIED_BESIDE_APPLY, ids=name_of)
def test_what_is_copied_into_a_bundle_imports_libraries_only_where_it_needs_them(file: Path) -> None:
    """A cold start is timed from before torch is imported, and a launch imports these files without torch."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Import):
            assert not {alias.name.partition(".")[0] for alias in node.names} & PUBLIC
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert str(node.module).partition(".")[0] not in PUBLIC


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
            assert {module.partition(".")[0] for module in modules} <= PUBLIC | OPTIONAL | standard


STARTS_PROCESSES = {
    "agent/trial/process_tree.py",
    "agent/trial/keeper.py",
    "agent/trial/fork_server.py",
    "objectives/measuring/building.py",  # in the tree of the run.py that builds, and ended with it
}


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_one_place_starts_processes_because_it_also_ends_them(file: Path) -> None:
    """Whatever is started elsewhere would be left behind when a launch is killed."""
    used = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            used |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            used.add(str(node.module).partition(".")[0])
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            used.add(node.attr)
    starting = used & {"subprocess", "multiprocessing", "fork", "forkpty", "posix_spawn", "system", "popen"}
    assert not starting or name_of(file) in STARTS_PROCESSES
