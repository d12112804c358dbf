"""What has to be known before a trial's figures are trusted: ties, confirmation, and what speaks against them."""

from collections.abc import Sequence
from typing import Any

from ...objectives.measuring.intervals import Comparison
from ...objectives.verdict import Verdict
from ...studies import Outcome, RunRecord
from ...studies._records import MOVED
from ..measuring.finalists import COLD_START, REFERENCE, Confirmation, confirmations
from .figures import broken_limits, speed_up
from .results import Results, Trial

BUSY_CPU = 0.1
"""Other programs that use so much of the CPU are worth a word, also where a GPU does the work: it launches kernels."""

_FIGURE_WORDS = {"latency_ms": "latency", "peak_vram_gib": "peak memory", "cold_start_s": "cold start"}


def confirmation_of(results: Results, trial: Trial) -> Confirmation | None:
    """What the confirming blocks found of a trial; None when it was not in them."""
    return confirmations(results).get(trial.number)


def is_confirmed(results: Results, trial: Trial) -> bool:
    """Whether blocks showed a trial to be faster than the reference and no slower than torch.compile."""
    found = confirmation_of(results, trial)
    return found is not None and found.confirmed


def confirmed_against(results: Results, trial: Trial, name: str) -> Comparison | None:
    """What confirming found of a trial against "the reference" or "torch.compile"; None when it was not confirmed."""
    found = confirmation_of(results, trial)
    return None if found is None else found.against.get(name.removeprefix("the "))


def confirmation_dict(results: Results, trial: Trial) -> dict[str, Any] | None:
    """What confirming found, JSON-able: {"reference": ..., "torch_compile": ...}; ratios of times, below 1 is faster.

    None for a trial that was not in the blocks.
    """
    found = confirmation_of(results, trial)
    if found is None:
        return None
    return {name.replace(".", "_"): comparison.to_dict() for name, comparison in found.against.items()}


def confirmation_words(confirmation: Confirmation) -> str:
    """What confirming found: ratios, intervals, blocks, and the difference that it could have missed."""
    words = []
    for name, comparison in confirmation.against.items():
        interval = f"{1 / comparison.high:.2f} to {1 / comparison.low:.2f}"
        which = "the reference" if name == REFERENCE else name
        if comparison.decision == "tie":
            words.append(f"a tie with {which} (95 % interval {interval} times as fast)")
        else:
            words.append(f"{1 / comparison.ratio:.2f} times as fast as {which} (95 % interval {interval})")
    blocks = max(comparison.blocks for comparison in confirmation.against.values())
    smallest = max(comparison.smallest_effect for comparison in confirmation.against.values())
    return (
        f"{', '.join(words)}, in {blocks} blocks of fresh processes. "
        f"Differences under {smallest:.1%} could not have been seen."
    )


def confirmation_note(results: Results, trial: Trial) -> str | None:
    """Why a trial's gain is not certain: it was not confirmed, or confirming said otherwise. None when nothing does."""
    if trial is results.reference:
        return None
    found = confirmation_of(results, trial)
    if found is None:
        # A launch that has confirmed others already would not confirm this one if it were launched again.
        to_come = not results.blocks and results.study.finalists.count > 0 and trial is results.best_or_none()
        contenders = f"{results.name}:reference {results.name}:{trial.number}"
        how = "a launch does that at its end" if to_come else f"paretune compare {contenders} does that"
        return f"Trial {trial.number} was not confirmed in blocks against the reference; {how}."
    if found.confirmed:
        return None
    return f"Confirming trial {trial.number} did not show a gain: {confirmation_words(found)}"


def floor_note(results: Results) -> str:
    """The noise floor in one sentence."""
    if results.floor is None:
        return "The noise floor was not measured: small differences may be noise."
    latency, memory = (results.floor.of_figure(name) for name in ("latency_ms", "peak_vram_gib"))
    return (
        f"Noise floor: {latency:.1%} in latency and {memory:.1%} in memory, from {results.floor.processes} processes "
        "of the unchanged reference; smaller differences are ties."
    )


def ties_note(results: Results, trial: Trial, by: str = "latency_ms") -> str | None:
    """The acceptable trials that cannot be told apart from this one in a figure; None when there is none."""
    tied = results.ties_of(trial, by)
    if not tied:
        return None
    numbers = [other.number for other in tied if other is not results.reference]
    names = ["the reference"] if len(numbers) < len(tied) else []
    if numbers:
        names.append(f"trial{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}")
    which = f"Trial {trial.number} ties with {' and '.join(names)}"
    if by == "latency_ms" and trial is results.best_or_none():
        return f"{which}; of the front's that are surely faster than the reference, the one that loses least is taken."
    return f"{which} in {_FIGURE_WORDS.get(by, by)}."


def doubts(results: Results, trial: Trial | None = None) -> list[str]:
    """What a reader has to know before trusting a trial's gain; empty when nothing speaks against it.

    None is the study as a whole: its best, and what the machine did in whatever trial. Of a single trial, only what
    concerns it and what it is compared with is said.
    """
    subject = results.best_or_none() if trial is None else trial
    notes = [shortfall(results)] if trial is None else []
    if subject is not None:
        about = (_limits_note, _early_note, confirmation_note, _pictures_note, _cold_start_note)
        notes += [note(results, subject) for note in about]
    compared = (results.reference, results.torch_compile, trial)
    concerned = results.complete if trial is None else [one for one in results.complete if one in compared]
    notes += [_machine_note(results, concerned), _moved_note(concerned), _unsteady_note(concerned)]
    return [note for note in notes if note is not None]


def shortfall(results: Results) -> str | None:
    """Why the gain is small, in one sentence; None when the best acceptable trial is 1.5 times as fast or more."""
    best, reference = results.best_or_none(), results.reference
    ratio = speed_up(reference, best) if best else 1.0
    if best is not None and (comparison := confirmed_against(results, best, "the reference")) is not None:
        ratio = 1 / comparison.ratio
    if ratio >= 1.5:
        return None
    fast = [t for t in results.complete if speed_up(reference, t) >= 1.5]
    unproven = [t for t in fast if results.acceptable(t) and results.tie("latency_ms", t, reference)]
    if unproven:
        which = "One configuration that keeps" if len(unproven) == 1 else f"{len(unproven)} configurations that keep"
        return (
            f"{which} the limits took two thirds of the reference's time or less, which on a machine as unsteady as "
            "this proves nothing: measure again when nothing else runs on it, under another --name."
        )
    faster = [t for t in fast if not results.acceptable(t)]
    if not faster:
        return f"Nothing acceptable was shown to be 1.5 times as fast as the reference ({len(results.trials)} trials)."
    which = "One configuration" if len(faster) == 1 else f"{len(faster)} configurations"
    return (
        f"{which} reached 1.5 times the reference's speed and broke the study's limits; the pictures: "
        f"{', '.join(sorted({str(t.verdict) for t in faster}, key=lambda v: Verdict(v).rank))}."
    )


def _limits_note(results: Results, trial: Trial) -> str | None:
    broken = broken_limits(results, trial)
    return f"Trial {trial.number} breaks the study's limits: {'; '.join(broken)}." if broken else None


def _early_note(results: Results, trial: Trial) -> str | None:
    words = ended_early_words(trial)
    return None if words is None else f"Of trial {trial.number}, {words}; its figures are rough."


def ended_early_words(trial: Trial) -> str | None:
    """That a trial's timing was cut short and why; None when it was not."""
    better = trial.measurements.get("dominated_by")
    if better is None:
        return None
    return f"measuring was ended early, because trial {better} was clearly better in everything"


def _pictures_note(results: Results, trial: Trial) -> str | None:
    missing = trial.measurements.get("pictures_missing")
    if missing is None:
        return None
    reason = str(missing["reason"]).rstrip(".")
    return f"More pictures of trial {trial.number} could not be made ({missing['outcome']}: {reason})."


def failed_cold_starts(results: Results, trial: Trial) -> list[RunRecord]:
    """The cold processes of a trial that made no picture."""
    runs = [run for run in results.runs(COLD_START) if run.trial == trial.number]
    return [run for run in runs if run.outcome != Outcome.COMPLETE]


def _cold_start_note(results: Results, trial: Trial) -> str | None:
    failed = failed_cold_starts(results, trial)
    if not failed:
        return None
    tried = sum(run.trial == trial.number for run in results.runs(COLD_START))
    return f"{len(failed)} of {tried} cold starts of trial {trial.number} failed: {failed[-1].reason.rstrip('.')}."


def _machine_note(results: Results, trials: Sequence[Trial]) -> str | None:
    """What the machine did meanwhile that casts doubt on the figures."""
    last = {run.session: run for run in results.runs("canary")}  # a canary outside the floor is tried again
    moved = sum(not inside_floor(results, run) for run in last.values())
    words = [f"the reference moved beyond the noise floor {moved} time{'s' if moved > 1 else ''}"] if moved else []
    throttled = [t.number for t in trials if any(shape.get("throttled") for shape in t.measurements["latency"])]
    if throttled:
        words.append(f"the GPU was throttled in {_numbers(throttled)}")
    foreign = {
        process["name"]
        for trial in trials
        for process in trial.measurements.get("machine", {}).get("foreign_gpu_processes", [])
    }
    if foreign:
        words.append(f"other programs used the GPU ({', '.join(sorted(foreign))})")
    busy = [t for t in trials if _foreign_cpu_share(t) >= BUSY_CPU]
    if busy:
        shares = [round(100 * _foreign_cpu_share(t)) for t in busy]
        share = f"{min(shares)} to {max(shares)} %" if min(shares) < max(shares) else f"{shares[0]} %"
        words.append(f"other programs used {share} of the CPU in {_numbers([t.number for t in busy])}")
    return f"While it was measured, {'; '.join(words)}." if words else None


def _numbers(trials: Sequence[int]) -> str:
    return f"trial{'s' if len(trials) > 1 else ''} {', '.join(map(str, trials))}"


def _foreign_cpu_share(trial: Trial) -> float:
    return float(trial.measurements.get("machine", {}).get("cpu", {}).get("foreign_share") or 0)


def inside_floor(results: Results, run: RunRecord) -> bool:
    """Whether the reference, measured again in this process, was where it had been; True where nothing can tell."""
    if results.floor is None or run.outcome != Outcome.COMPLETE:
        return True
    return results.floor.holds("latency_ms", run.measurements["latency_ms"])


def _moved_note(trials: Sequence[Trial]) -> str | None:
    """Trials that canaries threw doubt upon, and that were not measured again since."""
    moved = [trial.number for trial in trials if trial.machine == MOVED]
    if not moved:
        return None
    which = f"Trial {moved[0]} was" if len(moved) == 1 else f"Trials {', '.join(map(str, moved))} were"
    return f"{which} measured while the reference was not where it had been: the figures are in doubt."


def _unsteady_note(trials: Sequence[Trial]) -> str | None:
    """Calls of one configuration that differ by half are not the pipeline's doing."""
    unsteady = [
        trial.number
        for trial in trials
        if any(shape["max_ms"] > 1.5 * shape["min_ms"] for shape in trial.measurements["latency"])
    ]
    if not unsteady:
        return None
    return (
        f"The slowest timed call took more than 1.5 times as long as the fastest in trial{'s'[: len(unsteady) - 1]} "
        f"{', '.join(map(str, unsteady))}: something else probably ran on the machine. Measure again before you decide."
    )
