"""How a trial ended: read from the files that its process left, which may be missing, broken or a technique's own."""

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ...studies import Outcome, without_secrets
from .folder import LOG, PHASES, RESULT
from .log import tail_of
from .process_tree import signal_name

MOST_CHARACTERS = 2**20
"""Of what a process says of its phases; a line for each is some hundred."""
NO_ROOM = os.EX_IOERR
"""Exit code of a process that could not write its result because the disk is full."""
MOST_BYTES = 64 * 2**20
"""Far more than any result has."""
HERE = "local"
"""The place of a process on the launching machine, when that is the only one."""
NEEDED = ("first_call_ms", "cold_start_s", "latency_ms", "peak_vram_gib")
"""What a complete trial has measured."""


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """How a trial ended and what it measured."""

    outcome: Outcome
    reason: str = ""
    log_tail: str = ""
    measurements: Mapping[str, Any] = field(default_factory=dict)
    pipelines: Mapping[str, Any] = field(default_factory=dict)
    phases_s: Mapping[str, float] = field(default_factory=dict)
    place: str = HERE
    """Where it ran."""


_RESULT = TypeAdapter(TrialResult)


@dataclass(frozen=True)
class Begun:
    """A phase that a process has begun."""

    phase: str
    at: float
    """Seconds since 1970."""


_BEGUN = TypeAdapter(Begun)


def read_result(folder: Path, exit_code: int, needed: Sequence[str] = ()) -> TrialResult:
    """What the process of a trial's folder has left, or what its exit code says. Never raises for a broken file.

    needed: figures that a complete trial has measured.
    """
    begun = announced(folder)
    phase = begun[-1].phase if begun else "start"
    how = f"{phase}: the process ended with exit code {exit_code}"
    if (folder / RESULT).is_file():
        try:
            return parse_result(folder / RESULT, needed)
        except ValueError as error:
            reason = f"{how} and left a {RESULT} that cannot be read ({error})"
            return TrialResult(outcome=Outcome.CRASH, reason=reason)
    if exit_code == NO_ROOM:
        return TrialResult(outcome=Outcome.INFRASTRUCTURE, reason=f"{phase}: the disk is full: {folder}")
    if exit_code < 0:
        name = signal_name(-exit_code)
        # We report when we send SIGKILL ourselves, so this one is the kernel's: main memory ran out.
        outcome = Outcome.OOM if name == "SIGKILL" else Outcome.CRASH
        return TrialResult(outcome=outcome, reason=f"{phase}: killed by {name}")
    return TrialResult(outcome=Outcome.CRASH, reason=how)


def parse_result(file: Path, needed: Sequence[str]) -> TrialResult:
    """A result.json of `run_trial`. Raises ValueError, in a few words, when it is none."""
    data = read_json(file)
    try:
        result = _RESULT.validate_python(data)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise ValueError(f"{where}: {fault['msg']}" if where else fault["msg"]) from None
    if result.outcome is Outcome.COMPLETE:
        require_figures(result.measurements, needed)
    return result


def finished_trial(folder: Path, apply_py: str) -> tuple[TrialResult, str] | None:
    """The complete result that lies in a trial's folder, and when it was made (ISO 8601): a launch that ended just then
    could not store it any more. None when there is none, or not of this apply.py.
    """
    try:
        result = parse_result(folder / RESULT, NEEDED)
        same = (folder / "apply.py").read_text() == apply_py
        finished = datetime.fromtimestamp((folder / RESULT).stat().st_mtime, UTC)
    except (OSError, ValueError):
        return None
    if not same or result.outcome is not Outcome.COMPLETE:
        return None
    return result, finished.isoformat(timespec="seconds")


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file that a process has written. Raises ValueError, in a few words, when there is none."""
    try:
        if file.stat().st_size > MOST_BYTES:
            raise ValueError(f"it is larger than {MOST_BYTES // 2**20} MiB")
        data = json.loads(file.read_bytes(), parse_constant=_refuse_constant)
    except OSError as error:
        raise ValueError(str(error.strerror)) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(data, dict):
        raise ValueError("it is not an object")
    return data


def require_figures(measurements: object, needed: Sequence[str]) -> None:
    """Raise ValueError unless each of these was measured, and is a finite number."""
    if not isinstance(measurements, Mapping):
        raise ValueError("what was measured is not an object")
    for name in needed:
        value = measurements.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{name} is no number" if name in measurements else f"{name} is missing")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it has {name}, which JSON has not")


def announced(folder: Path) -> list[Begun]:
    """Every phase that the process has begun. Lines that say something else are passed over."""
    file = folder / PHASES
    if not file.is_file():
        return []
    begun = []
    with file.open(errors="replace") as opened:
        said = opened.read(MOST_CHARACTERS)
    for line in said.splitlines(keepends=True):
        # A line may be half written when it is read; it is whole the next time.
        if line.endswith("\n"):
            with suppress(ValidationError):
                begun.append(_BEGUN.validate_json(line))
    return begun


def with_start(phases_s: Mapping[str, float], folder: Path, started: float) -> dict[str, float]:
    """Add the phase "start", from asking for the trial to its first phase.

    A process that was killed did not report its phases: then they are worked out from when it announced them.
    """
    begun = announced(folder)
    start_s = round(begun[0].at - started, 3) if begun else 0.0
    ends = [one.at for one in begun[1:]] + [time.time()]
    announced_s = {one.phase: round(end - one.at, 3) for one, end in zip(begun, ends, strict=False)}
    return {"start": max(start_s, 0.0), **(phases_s or announced_s)}


def log_tail(folder: Path, characters: int = 4000) -> str:
    """The end of a trial's log."""
    return without_secrets(tail_of(folder / LOG, characters))[-characters:]
