"""What a report says about how far its figures can be trusted: confirmation, stages, noise floor, machine."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...objectives.measuring.intervals import Comparison
from ...objectives.measuring.machine_state import notes
from ...objectives.measuring.stages import DENOISING, POST_PROCESSING, TEXT_ENCODING, VAE_DECODE
from ...studies import Outcome, RunRecord
from ..measuring.finalists import COLD_START, REFERENCE, TORCH_COMPILE, confirmations
from ..measuring.more_pictures import KIND as MORE_PICTURES
from ..measuring.noise_floor import CANARY, FLOOR
from ..measuring.remeasure import AGAIN
from ..measuring.reordering_floor import KIND as BENIGN
from ..results.confirmation import BLOCK
from ..results.doubts import inside_floor
from ..results.figures import cold_start_measured, milliseconds
from ..results.results import Results, Trial
from ..results.summary import winner
from ..trial.cold_start import PHASES as COLD_PHASES

STAGES = {
    TEXT_ENCODING: "text encoding",
    DENOISING: "denoising",
    VAE_DECODE: "VAE decoding",
    POST_PROCESSING: "post-processing",
    "other": "the rest",
}
COLD_WORDS = dict(zip(COLD_PHASES, ("interpreter", "imports", "weights", "apply", "first picture"), strict=True))
_PROCESSES = {
    FLOOR: "noise floor",
    CANARY: "canaries",
    AGAIN: "trials measured again",
    BENIGN: "benign floor",
    MORE_PICTURES: "more pictures",
    BLOCK: "confirming blocks",
    COLD_START: "cold starts",
}


@dataclass(frozen=True)
class Finalist:
    """One configuration that was measured in the confirming blocks."""

    trial: Trial
    label: str
    confirmed: bool
    against: list[Comparison | None]
    """The reference, then torch.compile; None for itself and for what was not in the blocks."""

    @property
    def blocks(self) -> int:
        """How many both had a part in."""
        return max(comparison.blocks for comparison in self.against if comparison is not None)


@dataclass(frozen=True)
class ColdStart:
    """The median of real cold processes, in s."""

    trial: Trial
    label: str
    n: int
    phases_s: list[float]
    """As in COLD_WORDS."""
    total_s: float
    """Without loading the weights."""


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


@dataclass(frozen=True)
class StageBar:
    """One call of one configuration, split into its stages."""

    trial: Trial
    label: str
    total_ms: float
    milliseconds: dict[str, float]
    """By the names of STAGES."""
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
        return max(bar.total_ms for bar in self.bars)


@dataclass(frozen=True)
class Footprint:
    """Memory in GiB and the GPU's share of the time, for a named configuration; None for what is not known."""

    trial: Trial
    label: str
    setup_gib: float | None
    serving_gib: float
    gpu_busy_percent: float | None


@dataclass(frozen=True)
class Canary:
    """The reference, measured again."""

    after_trials: int
    at: str
    latency_ms: float
    change: float
    """Relative to the median of the noise floor's processes."""
    inside: bool


def named(results: Results) -> list[tuple[str, Trial]]:
    """Reference, torch.compile and best, as far as there are such; one that is two of them once."""
    labels: dict[int, tuple[list[str], Trial]] = {}
    for label, trial in (
        (REFERENCE, results.reference),
        (TORCH_COMPILE, results.torch_compile),
        ("best", winner(results)),
    ):
        if trial is not None and trial.complete:
            labels.setdefault(trial.number, ([], trial))[0].append(label)
    return [(", ".join(words), trial) for words, trial in labels.values()]


def finalists(results: Results) -> list[Finalist]:
    """Everything that was measured in the newest confirming blocks, the fastest first."""
    labels = {trial.number: label for label, trial in named(results)}
    known = {trial.number: trial for trial in results.trials}
    found = [
        Finalist(
            known[number],
            labels.get(number, ""),
            one.confirmed,
            [one.against.get(REFERENCE), one.against.get(TORCH_COMPILE)],
        )
        for number, one in confirmations(results).items()
        if number in known and one.against
    ]
    return sorted(found, key=lambda one: one.against[0].ratio if one.against[0] else 1.0)


def cold_starts(results: Results, confirmed: Sequence[Finalist]) -> list[ColdStart]:
    """The reference's and the finalists' cold starts, as far as they were measured."""
    rows = [(REFERENCE, results.reference), *((one.label, one.trial) for one in confirmed)]
    found = []
    for label, trial in rows:
        if (measured := cold_start_measured(trial)) is not None:
            total_s, n = measured
            phases = trial.measurements["cold_start"]
            phases_s = [float(phases.get(f"{phase}_s", 0.0)) for phase in COLD_WORDS]
            found.append(ColdStart(trial, label, n, phases_s, total_s))
    return found


def failed_processes(results: Results) -> list[FailedProcesses]:
    """The processes beside the trials that came to no end, together where the reason is the same.

    Variants of the benign floor have a table of their own.
    """
    together: dict[tuple[str, int, str, str], list[RunRecord]] = {}
    for kind in (one for one in _PROCESSES if one != BENIGN):
        for run in results.runs(kind):
            if run.outcome != Outcome.COMPLETE:
                together.setdefault((kind, run.trial, run.outcome, run.reason), []).append(run)
    return [
        FailedProcesses(
            _PROCESSES[kind],
            trial,
            outcome,
            reason,
            len(runs),
            sum(run.trial == trial for run in results.runs(kind)),
        )
        for (kind, trial, outcome, reason), runs in together.items()
    ]


def shapes(results: Results) -> list[Shape]:
    """Where the time of a request goes, shape by shape of request; empty when stages were not measured."""
    by_requests: dict[str, list[StageBar]] = {}
    for label, trial in named(results):
        for measured in trial.measurements.get("stages") or ():
            bar = _stage_bar(label, trial, measured)
            by_requests.setdefault(", ".join(measured["requests"]), []).append(bar)
    return [Shape(requests, bars) for requests, bars in by_requests.items()]


def _stage_bar(label: str, trial: Trial, measured: Mapping[str, Any]) -> StageBar:
    stages = measured["stages"]
    # On a GPU, wall-clock time of a stage is only the time it took to queue the work.
    spent_ms = {
        name: stage["wall_ms"] if stage.get("gpu_ms") is None else stage["gpu_ms"] for name, stage in stages.items()
    }
    denoising = stages.get(DENOISING, {})
    words = f"{denoising['steps']} steps, median {_short_ms(denoising['median_step_ms'])}" if denoising else ""
    return StageBar(trial, label, measured["total_ms"], {**spent_ms, "other": measured["other_ms"]}, words)


def _short_ms(value: float) -> str:
    return f"{value:.1f} ms" if value < 100 else milliseconds(value)


def footprints(results: Results) -> list[Footprint]:
    """Memory while a configuration is set up and while it serves, and how busy the GPU is."""
    return [
        Footprint(
            trial,
            label,
            trial.measurements.get("setup_peak_vram_gib"),
            trial.figure("peak_vram_gib"),
            trial.measurements.get("machine", {}).get("gpu_utilization_percent"),
        )
        for label, trial in named(results)
    ]


def canaries(results: Results) -> list[Canary]:
    """Every time the reference was measured again to see that the machine had not changed."""
    floor = results.floor
    before_ms = floor.middle("latency_ms") if floor else results.reference.figure("latency_ms")
    found = []
    for run in results.runs(CANARY):
        if run.outcome == Outcome.COMPLETE:
            now_ms = float(run.measurements["latency_ms"])
            change = now_ms / before_ms - 1
            found.append(Canary(run.session, run.finished_at, now_ms, change, inside_floor(results, run)))
    return found


def machine_notes(results: Results) -> dict[str, list[str]]:
    """What the machine did that a person should know of: {sentence: [where]}, shares as the range of all places."""
    measured = [(f"trial {trial.number}", trial.measurements) for trial in results.complete]
    for kind in (FLOOR, CANARY, BLOCK):
        measured += [(_where(run), run.measurements) for run in results.runs(kind) if run.outcome == Outcome.COMPLETE]
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


def _where(run: RunRecord) -> str:
    if run.kind == BLOCK:
        return f"block {run.position + 1} of trial {run.trial}"
    if run.kind == CANARY:
        return f"canary after {run.session} trials"
    return f"noise floor, process {run.position + 2}"  # the reference's own trial is the first


def other_processes(results: Results) -> tuple[float, list[str]]:
    """The processes beside the trials: their seconds in all, and how many of each kind in words."""
    seconds, words = 0.0, []
    for kind, name in _PROCESSES.items():
        runs = results.runs(kind)
        if runs:
            seconds += sum(_seconds_of(run) for run in runs)
            words.append(f"{name} {len(runs)}")
    return seconds, words


def _seconds_of(run: RunRecord) -> float:
    if run.kind == COLD_START:  # a plain process, whose phases are its measurements
        return sum(float(run.measurements.get(f"{phase}_s", 0.0)) for phase in COLD_PHASES)
    return float(sum(run.phases_s.values()))


def call_words(trial: Trial) -> list[str]:
    """How far the timed calls lie apart and why no more were made; for several shapes of request a line each."""
    shapes = trial.measurements["latency"]
    lines = []
    for shape in shapes:
        calls = f"n={shape['n']}, {milliseconds(shape['min_ms'])} to {milliseconds(shape['max_ms'])}"
        interval = f"interval {shape['interval']:.1%}" if "interval" in shape else ""
        why = ", ".join(filter(None, [interval, _STOPS.get(shape.get("stop"), "")]))
        if len(shapes) == 1:
            return [line for line in (calls, why) if line]
        names = shape["requests"]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        words = ", ".join(filter(None, [calls, why]))
        lines.append(f"{names[0]}{more}: {milliseconds(shape['median_ms'])} ({words})")
    return lines


_STOPS = {
    "interval": "narrow enough",
    "time": "time spent",
    "calls": "calls spent",
    "dominated": "ended early",
}
