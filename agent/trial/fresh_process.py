"""Runs the run.py of a trial's folder, or of a bundle's, in a fresh process that cannot import paretune."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...studies import without_secrets
from .log import tail_of
from .process_tree import Ended, run_process, signal_name
from .result import read_json, require_figures

# Importing paretune fails, wherever it is installed.
WITHOUT_PARETUNE = """
import runpy, sys
sys.modules["paretune"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_script(
    script: Path,
    arguments: list[str],
    *,
    out: Path,
    environment: Mapping[str, str],
    timeout_s: float,
    figures: Sequence[str] = (),
) -> dict[str, Any]:
    """What a run.py measures, and "process_s", how long its process took; it leaves pictures.npz in `out` as well.

    environment: beside what this process has; figures: numbers that it has to have measured.
    Raises TimeoutError, and RuntimeError with the script's last words when it fails. No process of it is left.
    """
    command = [sys.executable, "-P", "-c", WITHOUT_PARETUNE, str(script), *arguments, "--out", str(out)]
    log = out.with_name(f"{out.name}.log")
    ended = run_process(command, log=log, timeout_s=timeout_s, environment=environment)
    if ended.exit_code != 0:
        raise RuntimeError(last_words(log, ended))
    try:
        measured = read_json(out / "result.json")
        require_figures(measured, figures)
    except ValueError as error:
        raise RuntimeError(f"its result.json cannot be read ({error})") from None
    return {**measured, "process_s": ended.seconds}


def last_words(log: Path, ended: Ended) -> str:
    """Why a Python process failed, in one line: the signal that killed it, or the exception under a traceback, which is
    what follows the last line that is indented.
    """
    if ended.exit_code < 0:
        return f"killed by {signal_name(-ended.exit_code)}"
    lines = without_secrets(tail_of(log, 16_000)).strip().splitlines()
    if not lines:
        return f"exit code {ended.exit_code} and no message"
    indented = [index for index, line in enumerate(lines[:-1]) if line.startswith(" ")]
    return " ".join(lines[indented[-1] + 1 :] if indented else lines[-1:])[:500]
