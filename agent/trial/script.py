"""Repeats a trial, or checks a bundle: measures the apply.py beside this file, or in the folder above it.

It needs what lies in this file's folder, torch and the workload's own libraries; paretune need not be installed.
"""

# paretune copies this file as run.py into every trial's folder and every bundle's check/, beside workload.py and the
# package `measuring`, which is imported from there. So it is never imported as a module of paretune.

from pathlib import Path
from types import ModuleType

if __name__ == "__main__":
    folder = Path(__file__).resolve().parent
    # By itself, Python does not always look beside a script (not with -P, nor under runpy), and where it does it takes
    # any byte code that lies there. loading.py compiles everything from its source, itself first.
    source = folder / "measuring" / "loading.py"
    loading = ModuleType("loading")
    exec(compile(source.read_bytes(), str(source), "exec"), vars(loading))
    loading.load_file(folder / "measuring" / "__init__.py", "measuring")
    from measuring.command import main

    main(folder)
