"""What stands behind a study's figures: stages, noise floor, canaries, the machine, what failed beside the trials."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...objectives.figures import FIGURE, FIGURES, milliseconds
from ...objectives.measuring.machine_state import notes
from ...objectives.measuring.stages import DENOISING, POST_PROCESSING, TEXT_ENCODING, VAE_DECODE
from ...studies import LinkedRun, Outcome, RunKind, RunRecord
from ..results import Results, Trial
from ..trial import COLD_PHASES
from .rows import Shown, named_trials

STAGES = {
    TEXT_ENCODING: "text encoding",
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
}


@dataclass(frozen=True)
class StageBar:
    """One call of one trial, split into its stages. All of it together is the latency that is shown of the trial."""

    trial: int
    total: Shown
    stages: dict[str, Shown]
    """In ms, by the names of STAGES."""
    denoising: str
    """ "30 steps, median 33.1 ms"; empty where the pipeline has no steps."""


@dataclass(frozen=True)
class Shape:
    """The stages of requests that cost the same, for the named configurations."""

    requests: str
    bars: list[StageBar]

    @property
    def longest_ms(self) -> float:
        """What fills a whole bar."""
        return max(bar.total.value for bar in self.bars)


@dataclass(frozen=True)
class FloorShown:
    """What each process measured of the unchanged reference, and how far apart that is."""

    processes: int
    unsteady: bool
    """Whether latencies scatter so much that single trials cannot be compared."""
    figures: dict[str, Shown]
    """Relative: a difference of 0.02 is 2 %."""
    values: dict[str, list[Shown]]


@dataclass(frozen=True)
class CanaryShown:
    """The reference, measured again."""

    after_trials: int
    at: str
    latency: Shown
    change: str
    """Relative to the median of the noise floor's processes; empty on a machine too unsteady to tell."""
    inside: bool


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


def stages(results: Results) -> list[Shape]:
    """Where the time of a request goes, shape by shape of request; empty when stages were not measured."""
    by_requests: dict[str, dict[int, StageBar]] = {}
    for trial in named_trials(results).values():
        if trial is None or not trial.complete:
            continue
        for measured in trial.measurements.get("stages", ()):
            bars = by_requests.setdefault(", ".join(measured["requests"]), {})
            bars[trial.number] = _stage_bar(trial, measured)
    return [Shape(requests, list(bars.values())) for requests, bars in by_requests.items()]


def _stage_bar(trial: Trial, measured: Mapping[str, Any]) -> StageBar:
    """The call that was split was timed in a pass of its own, so that its stages are taken as shares."""
    found = measured["stages"]
    # On a GPU, wall-clock time of a stage is only the time it took to queue the work.
    spent_ms = {name: one["wall_ms"] if one.get("gpu_ms") is None else one["gpu_ms"] for name, one in found.items()}
    total_ms = _shape_latency_ms(trial, measured["requests"])
    scale = total_ms / measured["total_ms"]
    shown = {name: _ms(ms * scale) for name, ms in {**spent_ms, "other": measured["other_ms"]}.items()}
    words = ""
    if denoising := found.get(DENOISING):
        step_ms = denoising["median_step_ms"] * scale
        words = f"{denoising['steps']} steps, median {f'{step_ms:.1f} ms' if step_ms < 100 else milliseconds(step_ms)}"
    return StageBar(trial.number, _ms(total_ms), shown, words)


def _shape_latency_ms(trial: Trial, requests: Sequence[str]) -> float:
    """The latency of one shape of request, on the scale of the trial's latency."""
    alone_ms = float(trial.measurements["latency_ms"])
    of_shape = [shape["median_ms"] for shape in trial.measurements["latency"] if shape["requests"] == requests]
    return float(of_shape[0] if of_shape else alone_ms) * trial.figure("latency_ms") / alone_ms


def _ms(value: float) -> Shown:
    return Shown(value, milliseconds(value))


def floor_shown(results: Results) -> FloorShown | None:
    """The noise floor; None when it was not measured."""
    floor = results.floor
    if floor is None:
        return None
    names = [figure.name for figure in FIGURES if figure.has_floor]
    return FloorShown(
        processes=floor.processes,
        unsteady=floor.unsteady,
        figures={name: Shown(floor.of_figure(name), floor.text(name)) for name in names},
        values={name: [Shown(value, FIGURE[name].text(value)) for value in floor.values[name]] for name in names},
    )


def canaries(results: Results) -> list[CanaryShown]:
    """Every time the reference was measured again to see that the machine had not changed."""
    return [
        CanaryShown(
            _trials_before(results, one.link),
            one.at,
            _ms(one.latency_ms),
            "" if results.unsteady else f"{one.change:+.1%}" if one.change <= 1 else f"{1 + one.change:.1f} times",
            one.inside,
        )
        for one in results.canaries
    ]


def _trials_before(results: Results, link: int) -> int:
    return len({one.trial for one in results.linked_runs(RunKind.TRIAL) if one.link < link})


def failed_processes(results: Results) -> list[FailedProcesses]:
    """The processes beside the trials that came to no end, together where the reason is the same.

    Variants of the reordering floor have a table of their own.
    """
    complete = {trial.number for trial in results.complete}
    beside = {kind: results.linked_runs(kind) for kind in _PROCESSES if kind is not RunKind.REORDERING}
    again = [one for one in results.linked_runs(RunKind.TRIAL) if one.trial in complete]
    found = []
    for what, runs in [*((_PROCESSES[kind], runs) for kind, runs in beside.items()), ("measured again", again)]:
        together: dict[tuple[int, str, str], int] = {}
        for one in runs:
            if one.run.outcome != Outcome.COMPLETE:
                key = (one.trial, one.run.outcome, one.run.reason)
                together[key] = together.get(key, 0) + 1
        for (trial, outcome, reason), failed in together.items():
            tried = sum(one.trial == trial for one in runs)
            found.append(FailedProcesses(what, trial, outcome, reason, failed, tried))
    return found


def machine_notes(results: Results) -> dict[str, list[str]]:
    """What the machine did that a person should know of: {sentence: [where]}, shares as the range of all places."""
    measured = [(f"trial {trial.number}", trial.measurements) for trial in results.complete]
    for kind in (RunKind.FLOOR, RunKind.CANARY, RunKind.BLOCK):
        linked = [one for one in results.linked_runs(kind) if one.run.outcome == Outcome.COMPLETE]
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
        if repeated := len(shape.get("throttled_ms", ())):
            said.append(f"throttled calls were repeated ({repeated})")
        if counted := shape.get("throttled"):
            said.append(f"throttled calls are in the figures ({len(counted)}: {'; '.join(dict.fromkeys(counted))})")
    return said


def _where(results: Results, one: LinkedRun) -> str:
    if one.run.kind == RunKind.BLOCK:
        return f"block {one.run.position + 1} of trial {one.trial}"
    if one.run.kind == RunKind.CANARY:
        return f"canary after {_trials_before(results, one.link)} trials"
    return f"noise floor, process {one.run.position + 2}"  # the reference's own trial is the first


def trial_seconds(results: Results) -> float:
    """What the study's own trials took; one that was measured again counts as often."""
    return sum(_seconds_of(run) for run in results.runs(RunKind.TRIAL) if run.study == results.name)


def other_seconds(results: Results) -> dict[str, float]:
    """What the study's processes beside the trials took: {"noise floor, 4": seconds, ...}."""
    found = {}
    for kind, name in _PROCESSES.items():
        if own := [run for run in results.runs(kind) if run.study == results.name]:
            found[f"{name} {len(own)}"] = sum(_seconds_of(run) for run in own)
    return found


def _seconds_of(run: RunRecord) -> float:
    if run.kind == RunKind.COLD_START:  # a plain process, whose phases are its measurements
        return sum(float(run.measurements.get(f"{phase}_s", 0.0)) for phase in COLD_PHASES)
    return float(sum(run.phases_s.values()))
