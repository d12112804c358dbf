"""Repeats a trial, or checks a bundle: measures the apply.py beside this file, or in the folder above it.

It needs what lies in this file's folder, torch and the workload's own libraries; paretune need not be installed.
"""

# paretune copies this file as run.py into every trial's folder and every bundle's check/, beside workload.py and the
# package `measuring`, which is imported from there. So it is never imported as a module of paretune.

import sys
from pathlib import Path

if __name__ == "__main__":
    folder = Path(__file__).resolve().parent
    # By itself, Python does not always look beside a script: not with -P, nor under runpy.
    sys.path.insert(0, str(folder))
    from measuring.command import main

    main(folder)
