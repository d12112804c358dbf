"""Runs the notebooks and keeps their outputs: python benchmarks/run_notebooks.py [NAME ...] [--into FOLDER]

They run in the order of their names, because the third reads what the first has measured. --folder keeps what they have
measured, and a later run goes on with it. The table at the end of the second is put into README.md.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import nbclient
import nbformat

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
README = NOTEBOOKS.with_name("README.md")
BEGIN, END = "<!-- the table of notebooks/02_comic_workflow.ipynb -->", "<!-- the end of the table -->"
TIMEOUT_S = 3600


def run(file: Path, folder: Path, before: str = "") -> nbformat.NotebookNode:
    """A notebook with its outputs, run in `folder`, without what belongs to this machine; `before` is a cell that runs
    first and is not kept. Raises CellExecutionError.
    """
    # Figures as data: with plotly's own JavaScript, each notebook would have megabytes of it.
    os.environ["PLOTLY_RENDERER"] = "plotly_mimetype"
    notebook = nbformat.read(file, as_version=4)
    if before:
        notebook.cells.insert(0, nbformat.v4.new_code_cell(before))
    client = nbclient.NotebookClient(notebook, timeout=TIMEOUT_S, resources={"metadata": {"path": str(folder)}})
    client.execute()
    del notebook.cells[: 1 if before else 0]
    for cell in notebook.cells:
        cell.get("metadata", {}).pop("execution", None)  # when it ran, which is another time on every run
        if cell.cell_type == "code":
            # What libraries warn of, with the paths where they are installed.
            shown = [one for one in cell.outputs if one.get("name") != "stderr"]
            shown = [_without_path(one, str(folder.resolve()), ".") for one in shown]
            cell.outputs = [_without_path(one, str(NOTEBOOKS.parent), "paretune") for one in shown]
    notebook.metadata.pop("widgets", None)
    return notebook


def with_table(text: str, folder: Path) -> str:
    """README.md with the table of the second notebook, of the database in `folder`."""
    import paretune

    results = paretune.open("comic-notebook", storage=f"sqlite:///{folder / 'notebooks.db'}")
    table = results.against_torch_compile(lines={"torch.compile": 1, "paretune": 8}).markdown()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table}\nMeasured by `make notebooks`.\n{END}{after}"


def _without_path(value: Any, path: str, shown: str) -> Any:
    if isinstance(value, str):
        return value.replace(path, shown)
    if isinstance(value, dict):
        return type(value)({name: _without_path(item, path, shown) for name, item in value.items()})
    return [_without_path(item, path, shown) for item in value] if isinstance(value, list) else value


def main() -> None:
    """Run them in one folder, and write each into its place."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="beginnings of notebooks' names; by default all of them")
    parser.add_argument("--into", type=Path, default=NOTEBOOKS, help="by default over themselves")
    parser.add_argument("--folder", type=Path, help="where they run; by default one that is deleted afterwards")
    options = parser.parse_args()
    chosen = [
        file
        for file in sorted(NOTEBOOKS.glob("*.ipynb"))
        if not options.names or any(file.name.startswith(name) for name in options.names)
    ]
    with tempfile.TemporaryDirectory(prefix="paretune-notebooks-") as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for file in chosen:
            print(f"{file.name} ...", flush=True)
            nbformat.write(run(file, folder), options.into / file.name)
            if file.stem.startswith("02") and options.into == NOTEBOOKS:
                README.write_text(with_table(README.read_text(), folder))


if __name__ == "__main__":
    main()
