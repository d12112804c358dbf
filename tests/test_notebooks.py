"""The notebooks use the public API, and run: the first and the third quickly, all of each where tests may be slow."""

import ast
import importlib
import json
import re
from pathlib import Path
from typing import Any

import paretune
import pytest
from support.replayed import replay

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
BEFORE = (Path(__file__).parents[1] / "README.md").read_text()


def code_cells(file: Path) -> list[tuple[str, list[str]]]:
    """(source, tags) of each."""
    cells: list[dict[str, Any]] = json.loads(file.read_text())["cells"]
    found = [cell for cell in cells if cell["cell_type"] == "code"]
    return [("".join(cell["source"]), cell["metadata"].get("tags", [])) for cell in found]


def test_there_are_three() -> None:
    assert [file.stem for file in NOTEBOOKS] == ["01_quickstart", "02_comic_workflow", "03_read_a_study"]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_uses_only_what_there_is(file: Path) -> None:
    for source, _ in code_cells(file):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if node.value.id == "paretune":
                    assert node.attr in paretune.__all__
                elif node.value.id == "results":
                    known = set(dir(paretune.StudyResults)) | {"results"}
                    assert node.attr in known, f"results.{node.attr}"


def test_the_second_adds_at_most_eight_lines_to_an_existing_notebook() -> None:
    (added,) = [source for source, tags in code_cells(NOTEBOOKS[1]) if "paretune" in tags]
    lines = [line for line in added.splitlines() if line.strip()]
    assert 0 < len(lines) <= 8
    before = [source for source, tags in code_cells(NOTEBOOKS[1])][:3]
    assert not any("import paretune\n" in source for source in before)


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_outputs_say_nothing_of_the_machine_they_were_made_on(file: Path) -> None:
    cells = json.loads(file.read_text())["cells"]
    outputs = json.dumps([cell["outputs"] for cell in cells if cell["cell_type"] == "code"])
    assert not re.search(r"/(tmp|home|root|usr|work|var|mnt|opt)/", outputs)
    assert '"stderr"' not in outputs


def test_the_table_of_the_second_goes_into_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nbclient")
    notebooks = importlib.import_module("run_notebooks")
    results = paretune.StudyResults(replay(tmp_path))
    monkeypatch.setattr(paretune, "open", lambda name, storage: results)
    assert BEFORE.count(notebooks.BEGIN) == BEFORE.count(notebooks.END) == 1
    text = notebooks.with_table(BEFORE, tmp_path)
    table = text.partition(notebooks.BEGIN)[2].partition(notebooks.END)[0]
    assert "| | unchanged | torch.compile | paretune |" in table
    assert "| lines changed | 0 | 1 | 8 |" in table
    assert "Example <CPU> 9000, 4 threads, torch 2.13.0" in table
    assert notebooks.with_table(text, tmp_path) == text


QUICKLY = """
import paretune

launch = paretune.launch


def quickly(study, *, trials, **options):
    shorter = study.with_(finalists={"count": 0}, measurement={"calls": 3, "most_calls": 3, "floor_processes": 2})
    return launch(shorter, trials=min(trials, 2), **options)


paretune.launch = quickly
"""
"""Fewer trials, fewer calls, and nothing is confirmed."""


@pytest.mark.timeout(900)
def test_every_cell_of_the_first_and_the_third_runs(tmp_path: Path) -> None:
    """The second compiles, for minutes."""
    pytest.importorskip("pandas")
    run = importlib.import_module("run_notebooks").run
    for file in (NOTEBOOKS[0], NOTEBOOKS[2]):
        notebook = run(file, tmp_path, before=QUICKLY)
        assert notebook.cells[-1].outputs


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_they_run(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    run = importlib.import_module("run_notebooks").run
    for file in NOTEBOOKS:
        notebook = run(file, tmp_path)
        assert notebook.cells[-1].outputs
