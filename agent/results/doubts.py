"""What speaks against trusting a study's figures, or a single trial's; each in a sentence."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from ...studies import Outcome, RunKind
from .results import Results
from .trial import Trial, numbers

BUSY_CPU = 0.1
"""Other programs that use so much of the CPU are worth a word, also where a GPU does the work: it launches kernels."""
UNSTEADY_CALLS = 1.5
"""Calls of one configuration that differ by more than this factor are not the pipeline's doing."""


class DoubtKind(StrEnum):
    """What is doubtful."""

    UNSTEADY_MACHINE = "unsteady_machine"
    REFERENCE_CONTRADICTED = "reference_contradicted"
    BREAKS_LIMITS = "breaks_limits"
    ENDED_EARLY = "ended_early"
    UNCONFIRMED = "unconfirmed"
    NO_GAIN = "no_gain"
    PICTURES_MISSING = "pictures_missing"
    COLD_STARTS_FAILED = "cold_starts_failed"
    MACHINE_MOVED = "machine_moved"
    MACHINE_BUSY = "machine_busy"
    UNSTEADY_CALLS = "unsteady_calls"


@dataclass(frozen=True)
class Doubt:
    """One reason, as a whole sentence."""

    kind: DoubtKind
    text: str

    def __str__(self) -> str:
        return self.text


def study_doubts(results: Results) -> list[Doubt]:
    """What concerns the study as a whole: its best configuration, and what the machine did in whatever trial."""
    best = results.best_or_none
    found = [_unsteady_machine(results), _reference_contradicted(results)]
    if best is not None:
        found += _about(best)
    return [doubt for doubt in [*found, *_machine(results, results.complete)] if doubt is not None]


def trial_doubts(trial: Trial) -> list[Doubt]:
    """What concerns one trial and what it is compared with."""
    results = trial.results
    compared = {id(one) for one in (trial, results.reference, results.torch_compile) if one is not None}
    concerned = [one for one in results.complete if id(one) in compared]
    found = [_unsteady_machine(results), _reference_contradicted(results), *_about(trial)]
    return [doubt for doubt in [*found, *_machine(results, concerned)] if doubt is not None]


def _unsteady_machine(results: Results) -> Doubt | None:
    if not results.unsteady:
        return None
    return Doubt(
        DoubtKind.UNSTEADY_MACHINE,
        "This machine was too unsteady to compare single trials: the unchanged pipeline differed from itself by more "
        "than 30 % from one process to the next. Only what was confirmed in blocks counts; stop other programs and "
        "launch the study again under another --name.",
    )


def _reference_contradicted(results: Results) -> Doubt | None:
    if not results.reference_contradicted:
        return None
    times = len(results.canaries)
    often = {1: "once", 2: "twice"}.get(times, f"{times} times")
    return Doubt(
        DoubtKind.REFERENCE_CONTRADICTED,
        f"The reference was measured again {often} during the search and never took the time it had taken before, so "
        "single trials cannot be compared with it. Only what was confirmed in blocks counts; launch the study again "
        "under another --name.",
    )


def _about(trial: Trial) -> list[Doubt | None]:
    if trial.is_reference:
        return [_pictures_missing(trial), _cold_starts_failed(trial)]
    return [
        _breaks_limits(trial),
        _ended_early(trial),
        unconfirmed(trial),
        _pictures_missing(trial),
        _cold_starts_failed(trial),
    ]


def unconfirmed(trial: Trial) -> Doubt | None:
    """Why a trial's gain is not certain: it was not confirmed, or confirming said otherwise. None when nothing does."""
    if trial.is_reference or trial.confirmed:
        return None
    results = trial.results
    if trial.confirmation is not None:
        text = f"Confirming trial {trial.number} did not show a gain: {trial.confirmation.words()}"
        return Doubt(DoubtKind.NO_GAIN, text)
    # A launch that has confirmed others already would not confirm this one if it were launched again.
    to_come = not results.blocks and results.study.finalists.count > 0 and trial is results.best_or_none
    contenders = f"{results.name}:reference {results.name}:{trial.number}"
    how = "a launch does that at its end" if to_come else f"paretune compare {contenders} does that"
    text = f"Trial {trial.number} is unconfirmed: it was not measured in blocks against the reference; {how}."
    return Doubt(DoubtKind.UNCONFIRMED, text)


def _breaks_limits(trial: Trial) -> Doubt | None:
    broken = trial.broken_limits()
    text = f"Trial {trial.number} breaks the study's limits: {'; '.join(broken)}."
    return Doubt(DoubtKind.BREAKS_LIMITS, text) if broken else None


def _ended_early(trial: Trial) -> Doubt | None:
    words = ended_early_words(trial)
    if words is None:
        return None
    return Doubt(DoubtKind.ENDED_EARLY, f"The figures of trial {trial.number} are rough: {words}.")


def ended_early_words(trial: Trial) -> str | None:
    """That a trial's timing was cut short and why; None when it was not."""
    better = trial.ended_early_by
    return None if better is None else f"measuring ended early because trial {better} was clearly better in everything"


def _pictures_missing(trial: Trial) -> Doubt | None:
    """The newest attempt at more pictures counts: an earlier failure may have been made up for."""
    tried = trial.runs(RunKind.PICTURES)
    if not tried or "quality" in tried[-1].measurements:
        return None
    text = f"More pictures of trial {trial.number} could not be made ({tried[-1].outcome}: {_end(tried[-1].reason)})."
    return Doubt(DoubtKind.PICTURES_MISSING, text)


def _cold_starts_failed(trial: Trial) -> Doubt | None:
    tried = trial.runs(RunKind.COLD_START)
    failed = [run for run in tried if run.outcome != Outcome.COMPLETE]
    if not failed:
        return None
    text = f"{len(failed)} of {len(tried)} cold starts of trial {trial.number} failed: {_end(failed[-1].reason)}."
    return Doubt(DoubtKind.COLD_STARTS_FAILED, text)


def _machine(results: Results, concerned: Sequence[Trial]) -> list[Doubt | None]:
    """What the machine did meanwhile. On one that is known to be unsteady, that has been said once and for all."""
    steady = not (results.unsteady or results.reference_contradicted)
    return [
        _busy(concerned, with_cpu=steady),
        _moved(concerned) if steady else None,
        _unsteady_calls(concerned) if steady else None,
    ]


def _busy(trials: Sequence[Trial], *, with_cpu: bool) -> Doubt | None:
    words = []
    throttled = [t for t in trials if any(shape.get("throttled") for shape in t.measurements["latency"])]
    if throttled:
        words.append(f"the GPU was throttled in {numbers(throttled)}")
    machines = {trial.number: trial.measurements.get("machine", {}) for trial in trials}
    foreign = {process["name"] for machine in machines.values() for process in machine.get("foreign_gpu_processes", [])}
    if foreign:
        words.append(f"other programs used the GPU ({', '.join(sorted(foreign))})")
    shares = {t: float(machines[t.number].get("cpu", {}).get("foreign_share") or 0) for t in trials}
    busy = [round(100 * share) for share in shares.values() if share >= BUSY_CPU]
    if busy and with_cpu:
        share = f"{min(busy)} to {max(busy)} %" if min(busy) < max(busy) else f"{busy[0]} %"
        who = numbers(trial for trial, one in shares.items() if one >= BUSY_CPU)
        words.append(f"other programs used {share} of the CPU in {who}")
    return Doubt(DoubtKind.MACHINE_BUSY, f"During the measurements, {'; '.join(words)}.") if words else None


def _moved(trials: Sequence[Trial]) -> Doubt | None:
    moved = [trial for trial in trials if trial.in_doubt]
    if not moved:
        return None
    which = numbers(moved)
    text = (
        f"{which.capitalize()} {'was' if len(moved) == 1 else 'were'} measured next to a check that found the machine "
    )
    return Doubt(DoubtKind.MACHINE_MOVED, f"{text}changed: the figures are in doubt.")


def _unsteady_calls(trials: Sequence[Trial]) -> Doubt | None:
    unsteady = [
        trial
        for trial in trials
        if any(shape["max_ms"] > UNSTEADY_CALLS * shape["min_ms"] for shape in trial.measurements["latency"])
    ]
    if not unsteady:
        return None
    return Doubt(
        DoubtKind.UNSTEADY_CALLS,
        f"The slowest timed call took more than {UNSTEADY_CALLS} times as long as the fastest in {numbers(unsteady)}: "
        "something else was probably running on the machine. Measure again before you decide.",
    )


def _end(sentence: str) -> str:
    return sentence.rstrip(".")
