"""A trial's folder: what lies in it is what runs."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from paretune.agent.trial.folder import load_measuring, write_scripts
from paretune.objectives import measuring


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    write_scripts(tmp_path, {"schema": 1, "requests": []})
    yield tmp_path
    for name in copied_modules():
        del sys.modules[name]


def copied_modules() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] == "measuring"]


def test_the_whole_package_is_copied_and_nothing_else(folder: Path) -> None:
    package = Path(str(measuring.__file__)).parent
    assert {file.name for file in (folder / "measuring").iterdir()} == {file.name for file in package.glob("*.py")}
    assert {file.name for file in folder.iterdir()} == {"measuring", "run.py", "workload.json", "workload.py"}


def test_a_trial_runs_the_folders_copy_not_that_of_paretune(folder: Path) -> None:
    with (folder / "measuring" / "timing.py").open("a") as file:
        file.write("\nCHANGED = True\n")
    copied = load_measuring(folder)
    assert copied.Plan is not measuring.Plan
    assert sys.modules["measuring.timing"].CHANGED
    assert {Path(str(sys.modules[name].__file__)).parent for name in copied_modules()} == {folder / "measuring"}
