"""Runs the run.py of a trial's folder, or of a bundle's, in a fresh process that cannot import paretune."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...studies import without_secrets

# Importing paretune fails, wherever it is installed; the process dies with the one that started it (prctl 1 is
# PR_SET_PDEATHSIG).
WITHOUT_PARETUNE = """
import ctypes, runpy, sys
ctypes.CDLL(None).prctl(1, 9)
sys.modules["paretune"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_script(
    script: Path, arguments: list[str], *, out: Path, environment: Mapping[str, str], timeout_s: float
) -> dict[str, Any]:
    """What a run.py measures; it leaves pictures.npz in `out` as well. environment: beside what this process has.

    Raises TimeoutError, and RuntimeError with the script's last words when it fails.
    """
    command = [sys.executable, "-P", "-c", WITHOUT_PARETUNE, str(script), *arguments, "--out", str(out)]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError from None
    if done.returncode != 0:
        raise RuntimeError(_last_words(done.stderr))
    try:
        return dict(json.loads((out / "result.json").read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError):
        raise RuntimeError("it ended without a result") from None


def _last_words(stderr: str) -> str:
    """The exception under a traceback, in one line: what follows the last line that is indented."""
    lines = without_secrets(stderr).strip().splitlines() or ["no message"]
    indented = [index for index, line in enumerate(lines[:-1]) if line.startswith(" ")]
    return " ".join(lines[indented[-1] + 1 :] if indented else lines[-1:])[:500]
