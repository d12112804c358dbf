"""Runs the notebooks and keeps their outputs: python benchmarks/run_notebooks.py [NAME ...] [--into FOLDER]

They run in the order of their names, because the third reads what the first has measured.
"""

import argparse
import tempfile
from pathlib import Path

import nbclient
import nbformat

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
TIMEOUT_S = 3600


def run(file: Path, folder: Path) -> nbformat.NotebookNode:
    """A notebook with its outputs, run in `folder`. Raises CellExecutionError."""
    notebook = nbformat.read(file, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=TIMEOUT_S, resources={"metadata": {"path": str(folder)}})
    client.execute()
    for cell in notebook.cells:
        cell.get("metadata", {}).pop("execution", None)  # when it ran, which is another time on every run
    return notebook


def main() -> None:
    """Run them in one folder, and write each into its place."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="beginnings of notebooks' names; by default all of them")
    parser.add_argument("--into", type=Path, default=NOTEBOOKS, help="by default over themselves")
    options = parser.parse_args()
    chosen = [
        file
        for file in sorted(NOTEBOOKS.glob("*.ipynb"))
        if not options.names or any(file.name.startswith(name) for name in options.names)
    ]
    with tempfile.TemporaryDirectory(prefix="paretune-notebooks-") as scratch:
        for file in chosen:
            print(f"{file.name} ...", flush=True)
            nbformat.write(run(file, Path(scratch)), options.into / file.name)


if __name__ == "__main__":
    main()
