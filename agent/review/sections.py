"""What stands behind a study's figures: stages, noise floor, canaries, the machine, what failed beside the trials."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...objectives.figures import gibibytes, milliseconds
from ...objectives.measuring.machine_state import notes
from ...objectives.measuring.stages import (
    ADAPTERS,
    DENOISING,
    IMAGE_ENCODING,
    POST_PROCESSING,
    SEPARATOR,
    TEXT_ENCODING,
    VAE_DECODE,
    VAE_ENCODE,
)
from ...studies import LinkedRun, RunKind
from ..results import Results, Trial, trials_before
from ..trial import COLD_PHASES
from .rows import Shown, named_trials

STAGES = {
    ADAPTERS: "adapter changes",
    TEXT_ENCODING: "text encoding",
    IMAGE_ENCODING: "image encoding",
    VAE_ENCODE: "VAE encoding",
    DENOISING: "denoising",
    VAE_DECODE: "VAE decoding",
    POST_PROCESSING: "post-processing",
    "other": "the rest",
}
COLD_WORDS = dict(zip(COLD_PHASES, ("interpreter", "imports", "weights", "apply", "first picture"), strict=True))
_PROCESSES = {
    RunKind.FLOOR: "noise floor",
    RunKind.CANARY: "canaries",
    RunKind.REORDERING: "reordering floor",
    RunKind.PICTURES: "more pictures",
    RunKind.BLOCK: "confirming blocks",
    RunKind.COLD_START: "cold starts",
    RunKind.ABLATION: "ablation",
}


@dataclass(frozen=True)
class StageBar:
    """One call of one trial, split into its stages. All of it together is the latency that is shown of the trial."""

    trial: int
    total: Shown
    stages: dict[str, Shown]
    """In ms, in the order in which they end first: by the names of STAGES; in a workload with several entries with
    "refiner/" before such a name, and an entry that is no pipeline is a stage of its own name. See `stage_words`."""
    denoising: dict[str, str]
    """{stage: "30 steps, median 33.1 ms"}, for those that have steps."""
    memory: dict[str, Shown]
    """The peak within each stage, in GiB; empty where it was not measured."""


@dataclass(frozen=True)
class FailedProcesses:
    """Processes of one trial, beside the trial itself, that failed in the same way."""

    what: str
    trial: int
    outcome: str
    reason: str
    failed: int
    tried: int
    """Of the same kind and trial, those that went well included."""


def stage_words(name: str) -> str:
    """A stage of a StageBar for people: "denoising", "refiner: denoising", "upscaler"."""
    entry, _, stage = name.rpartition(SEPARATOR)
    words = STAGES.get(stage, stage)
    return f"{entry}: {words}" if entry else words


def stage_names(bars: Sequence[StageBar]) -> list[str]:
    """All stages of some bars, in their order; the rest comes last."""
    found = dict.fromkeys(name for bar in bars for name in bar.stages)
    return [*(name for name in found if name != "other"), "other"]


def stages(results: Results) -> dict[str, list[StageBar]]:
    """Where the time of a request goes in the named configurations, by the requests that cost the same."""
    return stages_of([trial for trial in dict.fromkeys(named_trials(results).values()) if trial is not None])


def stages_of(trials: Sequence[Trial]) -> dict[str, list[StageBar]]:
    """The same of any trials."""
    found: dict[str, list[StageBar]] = {}
    for trial in trials:
        if trial.complete:
            for measured in trial.measurements.get("stages", ()):  # none where timing was ended early
                found.setdefault(", ".join(measured["requests"]), []).append(_stage_bar(trial, measured))
    return found


def _stage_bar(trial: Trial, measured: Mapping[str, Any]) -> StageBar:
    """The call that was split was timed in a pass of its own, so that its stages are taken as shares."""
    found = measured["stages"]
    # On a GPU, wall-clock time of a stage is only the time it took to queue the work.
    spent_ms = {name: one["wall_ms"] if one.get("gpu_ms") is None else one["gpu_ms"] for name, one in found.items()}
    total_ms = _shape_latency_ms(trial, measured["requests"])
    scale = total_ms / measured["total_ms"]
    shown = {name: _ms(ms * scale) for name, ms in {**spent_ms, "other": measured["other_ms"]}.items()}
    denoising = {
        name: _steps_words(one["steps"], one["median_step_ms"] * scale)
        for name, one in found.items()
        if name.rpartition(SEPARATOR)[2] == DENOISING
    }
    memory = {
        name: Shown(one["peak_gib"], gibibytes(one["peak_gib"]))
        for name, one in found.items()
        if one.get("peak_gib") is not None
    }
    return StageBar(trial.number, _ms(total_ms), shown, denoising, memory)


def _steps_words(steps: int, step_ms: float) -> str:
    return f"{steps} steps, median {f'{step_ms:.1f} ms' if step_ms < 100 else milliseconds(step_ms)}"


def _shape_latency_ms(trial: Trial, requests: Sequence[str]) -> float:
    """The latency of one shape of request, on the scale of the trial's latency."""
    alone_ms = float(trial.measurements["latency_ms"])
    of_shape = [shape["median_ms"] for shape in trial.measurements["latency"] if shape["requests"] == requests]
    return float(of_shape[0] if of_shape else alone_ms) * trial.figure("latency_ms") / alone_ms


def _ms(value: float) -> Shown:
    return Shown(value, milliseconds(value))


def failed_processes(results: Results) -> list[FailedProcesses]:
    """The processes beside the trials that came to no end, together where the reason is the same.

    Variants of the reordering floor have a table of their own.
    """
    beside = [kind for kind in _PROCESSES if kind is not RunKind.REORDERING]
    runs = [(_PROCESSES[kind], one) for kind in beside for one in results.linked_runs(kind)]
    again = [one for one in results.linked_runs(RunKind.TRIAL) if results.numbered[one.trial].complete]
    runs += [("measured again", one) for one in again]
    tried = Counter((what, one.trial) for what, one in runs)
    failed = Counter((what, one.trial, one.run.outcome, one.run.reason) for what, one in runs if not one.run.complete)
    return [FailedProcesses(*key, count, tried[key[:2]]) for key, count in failed.items()]


def machine_notes(results: Results) -> dict[str, list[str]]:
    """What the machine did that a person should know of: {sentence: [where]}, shares as the range of all places."""
    measured = [(f"trial {trial.number}", trial.measurements) for trial in results.complete]
    for kind in (RunKind.FLOOR, RunKind.CANARY, RunKind.BLOCK):
        linked = [one for one in results.linked_runs(kind) if one.run.complete]
        measured += [(_where(results, one), one.run.measurements) for one in linked]
    # The same but for its percentage is the same: on a busy machine every place has another one.
    shares: dict[str, list[int]] = {}
    places: dict[str, list[str]] = {}
    for where, figures in measured:
        for sentence in dict.fromkeys(_notes(figures)):
            pattern = _PERCENT.sub("{}", sentence)
            shares.setdefault(pattern, []).extend(int(share) for share in _PERCENT.findall(sentence))
            places.setdefault(pattern, []).append(where)
    return {pattern.replace("{}", _range(shares[pattern])): where for pattern, where in places.items()}


_PERCENT = re.compile(r"(\d+)%")


def _range(shares: Sequence[int]) -> str:
    low, high = min(shares, default=0), max(shares, default=0)
    return f"{high}%" if low == high else f"{low}% to {high}%"


def _notes(figures: Mapping[str, Any]) -> list[str]:
    said = notes(figures["machine"]) if "machine" in figures else []
    for shape in figures.get("latency", ()):
        if repeated := len(shape["throttled_ms"]):
            said.append(f"throttled calls were repeated ({repeated})")
        if counted := shape["throttled"]:
            said.append(f"throttled calls are in the figures ({len(counted)}: {'; '.join(dict.fromkeys(counted))})")
    return said


def _where(results: Results, one: LinkedRun) -> str:
    if one.run.kind == RunKind.BLOCK:
        return f"block {one.run.position + 1} of trial {one.trial}"
    if one.run.kind == RunKind.CANARY:
        return f"canary after {trials_before(results.linked_runs(RunKind.TRIAL), one.link)} trials"
    return f"noise floor, process {one.run.position + 2}"  # the reference's own trial is the first


def trial_seconds(results: Results) -> float:
    """What the study's own trials took; one that was measured again counts as often."""
    return _seconds_of(results, RunKind.TRIAL)[1]


def other_seconds(results: Results) -> dict[str, float]:
    """What the study's processes beside the trials took: {"noise floor, 4": seconds, ...}."""
    spent = {name: _seconds_of(results, kind) for kind, name in _PROCESSES.items()}
    return {f"{name} {count}": seconds for name, (count, seconds) in spent.items() if count}


def _seconds_of(results: Results, kind: RunKind) -> tuple[int, float]:
    """How many of its own processes of a kind a study had, and what they took in all."""
    own = [run for run in results.runs(kind) if run.study == results.name]
    return len(own), float(sum(sum(run.phases_s.values()) for run in own))
