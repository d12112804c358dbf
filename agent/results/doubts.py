"""What speaks against trusting a study's figures, or a single trial's; each in a sentence."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from ...studies import RunKind
from ..trial import repetition_words
from .results import Results
from .trial import Trial, numbers

BUSY_CPU = 0.1
"""Other programs that use so much of the CPU are worth a word, also where a GPU does the work: it launches kernels."""
UNSTEADY_CALLS = 1.5
"""Calls of one configuration that differ by more than this factor are not the pipeline's doing."""


class DoubtKind(StrEnum):
    """What is doubtful."""

    NO_EVIDENCE = "no_evidence"
    UNREPEATABLE = "unrepeatable"
    UNSTEADY_MACHINE = "unsteady_machine"
    REFERENCE_CONTRADICTED = "reference_contradicted"
    BREAKS_LIMITS = "breaks_limits"
    ENDED_EARLY = "ended_early"
    UNCONFIRMED = "unconfirmed"
    NO_GAIN = "no_gain"
    TORCH_COMPILE_FASTER = "torch_compile_faster"
    FASTER_BREAK_LIMITS = "faster_break_limits"
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
    about_best = [] if best is None else _about(best)
    complete = results.complete
    return [
        *_reference(results),
        *_faster_break_limits(results),
        *about_best,
        *_unrepeatable(complete),
        *_machine(results, complete),
    ]


def trial_doubts(trial: Trial) -> list[Doubt]:
    """What concerns one trial and what it is compared with."""
    results = trial.results
    compared = (trial, results.reference, results.torch_compile, results.torch_compile_best)
    return [
        *_reference(results),
        *_about(trial),
        *_unrepeatable([trial]),
        *_machine(results, [one for one in results.complete if one in compared]),
    ]


def picture_doubts(results: Results) -> Iterator[Doubt]:
    """What makes the reference's pictures worth less than they seem."""
    if empty := results.reference.no_evidence:
        count = results.reference.picture_count + len(empty)
        verb, be = ("shows", "is") if len(empty) == 1 else ("show", "are")
        yield Doubt(
            DoubtKind.NO_EVIDENCE,
            f"{len(empty)} of the reference's {count} pictures {verb} nothing and {be} left out of every comparison "
            f"({empty[0]['file']}: {empty[0]['no_evidence']}).",
        )
    for words, found in results.repetitions.items():
        yield Doubt(
            DoubtKind.UNREPEATABLE,
            f"The unchanged reference does not repeat itself exactly ({words}: {repetition_words(found)}); drift up to "
            "there is not the techniques' doing.",
        )


def _reference(results: Results) -> Iterator[Doubt]:
    yield from picture_doubts(results)
    if results.unsteady:
        yield Doubt(
            DoubtKind.UNSTEADY_MACHINE,
            "This machine was too unsteady to compare single trials: the unchanged pipeline differed from itself by "
            "more than 30 % from one process to the next. Only what was confirmed in blocks counts; stop other "
            "programs and launch the study again under another --name.",
        )
    if results.reference_contradicted:
        times = len(results.canaries)
        often = {1: "once", 2: "twice"}.get(times, f"{times} times")
        yield Doubt(
            DoubtKind.REFERENCE_CONTRADICTED,
            f"The reference was measured again {often} during the search and never took the time it had taken before, "
            "so single trials cannot be compared with it. Only what was confirmed in blocks counts; launch the study "
            "again under another --name.",
        )


def _faster_break_limits(results: Results) -> Iterator[Doubt]:
    """That the limits, and not the techniques, are what keeps the gain small."""
    if results.unsteady or results.reference_contradicted:
        return
    best = results.best_or_none or results.reference
    faster = [t for t in results.complete if not t.acceptable and t.surely_less("latency_ms", best)]
    if faster:
        pictures = sorted({t.verdict for t in faster}, key=lambda verdict: verdict.rank)
        judged = f"; their pictures: {', '.join(pictures)}" if results.quality_assessed else ""
        text = f"Faster when measured once, but outside the study's limits: {numbers(faster)}{judged}."
        yield Doubt(DoubtKind.FASTER_BREAK_LIMITS, text)


def _about(trial: Trial) -> list[Doubt]:
    gain: list[Doubt] = []
    if not trial.is_reference:
        gain = [*_breaks_limits(trial), *_ended_early(trial)]
        if (unsure := unconfirmed(trial)) is not None:
            gain.append(unsure)
    return [*gain, *_pictures_missing(trial), *_cold_starts_failed(trial)]


def unconfirmed(trial: Trial) -> Doubt | None:
    """Why a trial's gain is not certain: it was not confirmed, or confirming said otherwise. None when nothing does."""
    if trial.is_reference or trial.confirmed:
        return None
    results = trial.results
    found = trial.confirmation
    if found is not None and found.faster:
        still = "but torch.compile alone is faster still"
        text = f"Trial {trial.number} is faster than the reference, {still}: {found.words()}"
        return Doubt(DoubtKind.TORCH_COMPILE_FASTER, text)
    if found is not None and found.reference is not None:
        if results.reference.broken_limits() and trial.acceptable:
            return None  # to keep the limits is its gain; the headline has the times
        text = f"Confirming trial {trial.number} did not show a gain: {found.words()}"
        return Doubt(DoubtKind.NO_GAIN, text)
    # A launch that has confirmed others already would not confirm this one if it were launched again.
    to_come = not results.blocks and results.study.finalists.count > 0 and trial is results.best_or_none
    contenders = f"{results.name}:reference {results.name}:{trial.number}"
    how = "a launch does that at its end" if to_come else f"paretune compare {contenders} does that"
    text = f"Trial {trial.number} is unconfirmed: it was not measured in blocks against the reference; {how}."
    return Doubt(DoubtKind.UNCONFIRMED, text)


def _breaks_limits(trial: Trial) -> Iterator[Doubt]:
    if broken := trial.broken_limits():
        text = f"Trial {trial.number} breaks the study's limits: {'; '.join(broken)}."
        yield Doubt(DoubtKind.BREAKS_LIMITS, text)


def _ended_early(trial: Trial) -> Iterator[Doubt]:
    if (words := ended_early_words(trial)) is not None:
        yield Doubt(DoubtKind.ENDED_EARLY, f"The figures of trial {trial.number} are rough: {words}.")


def ended_early_words(trial: Trial) -> str | None:
    """That a trial's timing was cut short and why; None when it was not."""
    better = trial.ended_early_by
    return None if better is None else f"measuring ended early because trial {better} was clearly better in everything"


def _unrepeatable(trials: Sequence[Trial]) -> Iterator[Doubt]:
    if found := [t for t in trials if t.largest_repeat_difference > 0 and not t.is_reference]:
        levels = 255 * max(trial.largest_repeat_difference for trial in found)
        by = f"by up to {levels:.2g} of 255 levels"
        text = f"The same request, repeated, gave other pictures in {numbers(found)} ({by})."
        yield Doubt(DoubtKind.UNREPEATABLE, text)


def _pictures_missing(trial: Trial) -> Iterator[Doubt]:
    """The newest attempt at more pictures counts: an earlier failure may have been made up for."""
    for tried in trial.runs(RunKind.PICTURES)[-1:]:
        if "quality" not in tried.measurements:
            text = f"More pictures of trial {trial.number} could not be made ({tried.outcome}: {_end(tried.reason)})."
            yield Doubt(DoubtKind.PICTURES_MISSING, text)


def _cold_starts_failed(trial: Trial) -> Iterator[Doubt]:
    tried = trial.runs(RunKind.COLD_START)
    if failed := [run for run in tried if not run.complete]:
        text = f"{len(failed)} of {len(tried)} cold starts of trial {trial.number} failed: {_end(failed[-1].reason)}."
        yield Doubt(DoubtKind.COLD_STARTS_FAILED, text)


def _machine(results: Results, concerned: Sequence[Trial]) -> Iterator[Doubt]:
    """What the machine did meanwhile. On one that is known to be unsteady, that has been said once and for all."""
    steady = not (results.unsteady or results.reference_contradicted)
    yield from _busy(concerned, with_cpu=steady)
    if steady:
        yield from _moved(concerned)
        yield from _unsteady_calls(concerned)


def _busy(trials: Sequence[Trial], *, with_cpu: bool) -> Iterator[Doubt]:
    words = []
    throttled = [t for t in trials if any(shape["throttled"] for shape in t.measurements["latency"])]
    if throttled:
        words.append(f"the GPU was throttled in {numbers(throttled)}")
    machines = {trial.number: trial.measurements["machine"] for trial in trials}
    foreign = {process["name"] for machine in machines.values() for process in machine["foreign_gpu_processes"]}
    if foreign:
        words.append(f"other programs used the GPU ({', '.join(sorted(foreign))})")
    shares = {t: float(machines[t.number]["cpu"]["foreign_share"] or 0) for t in trials}
    busy = [round(100 * share) for share in shares.values() if share >= BUSY_CPU]
    if busy and with_cpu:
        share = f"{min(busy)} to {max(busy)} %" if min(busy) < max(busy) else f"{busy[0]} %"
        who = numbers(trial for trial, one in shares.items() if one >= BUSY_CPU)
        words.append(f"other programs used {share} of the CPU in {who}")
    if words:
        yield Doubt(DoubtKind.MACHINE_BUSY, f"During the measurements, {'; '.join(words)}.")


def _moved(trials: Sequence[Trial]) -> Iterator[Doubt]:
    # What was measured in blocks since is decided by these.
    if moved := [trial for trial in trials if trial.in_doubt and trial.confirmation is None]:
        which = f"{numbers(moved).capitalize()} {'was' if len(moved) == 1 else 'were'}"
        text = f"{which} measured next to a check that found the machine changed: the figures are in doubt."
        yield Doubt(DoubtKind.MACHINE_MOVED, text)


def _unsteady_calls(trials: Sequence[Trial]) -> Iterator[Doubt]:
    def unsteady(trial: Trial) -> bool:
        return any(shape["max_ms"] > UNSTEADY_CALLS * shape["min_ms"] for shape in trial.measurements["latency"])

    if which := [trial for trial in trials if unsteady(trial)]:
        yield Doubt(
            DoubtKind.UNSTEADY_CALLS,
            f"The slowest timed call took more than {UNSTEADY_CALLS} times as long as the fastest in {numbers(which)}: "
            "something else was probably running on the machine. Measure again before you decide.",
        )


def _end(sentence: str) -> str:
    return sentence.rstrip(".")
