"""A study in words: the one-line gain, and the note of the dashboard."""

from .doubts import confirmed_against, doubts, floor_note, ties_note
from .figures import cold_start_estimate_s, cold_start_measured, cold_start_words, milliseconds, quality, speed_up
from .results import Results, Trial


def winner(results: Results) -> Trial | None:
    """The fastest configuration that keeps the study's limits, if any was measured."""
    return results.best_or_none()


def gain(results: Results) -> str:
    """One sentence: what the best acceptable configuration gains over the reference and over torch.compile."""
    best, reference = winner(results), results.reference
    if best is None or best is reference:
        floor = results.floor
        acceptable = [t for t in results.complete if t is not reference and results.acceptable(t)]
        if floor is not None and any(speed_up(reference, t) > 1 for t in acceptable):
            return (
                f"No configuration of {results.name} could be shown to be faster than the reference: what keeps the "
                f"limits differs from it by less than the noise floor of {floor.of_figure('latency_ms'):.1%}."
            )
        return f"No measured configuration of {results.name} is faster than the reference and keeps the study's limits."
    compiled = results.torch_compile
    if compiled is best:
        against = "which is torch.compile itself"
    elif compiled is not None and compiled.complete:
        against = _compared(results, best, compiled, "torch.compile")
    else:
        against = "torch.compile was not measured" if compiled is None else f"torch.compile ended as {compiled.outcome}"
    both = f"{milliseconds(best.figure('latency_ms'))} against {milliseconds(reference.figure('latency_ms'))}"
    return (
        f"{_compared(results, best, reference, 'the reference', both)}, {against}; pictures: {quality(results, best)}; "
        f"memory {best.figure('peak_vram_gib'):.2f} GiB against {reference.figure('peak_vram_gib'):.2f} GiB; "
        f"{_cold_starts(best, reference)}."
    )


def _compared(results: Results, best: Trial, other: Trial, name: str, both: str = "") -> str:
    """A ratio only where there is a difference: within the noise floor, or in confirming blocks, there may be none."""
    comparison = confirmed_against(results, best, name)
    if comparison is None:
        tie = results.tie("latency_ms", best, other)
        words = f"a tie with {name}" if tie else f"{speed_up(other, best):.2f} times as fast as {name}"
        return f"{words} ({both})" if both else words
    detail = f"{1 / comparison.high:.2f} to {1 / comparison.low:.2f} in {comparison.blocks} confirming blocks"
    words = (
        f"{1 / comparison.ratio:.2f} times as fast as {name}" if comparison.decision != "tie" else f"a tie with {name}"
    )
    # The ratio is the blocks'; the two medians were measured earlier, each in its own time.
    return f"{words} ({'; '.join(filter(None, [detail, both and f'as trials {both}']))})"


def _cold_starts(best: Trial, reference: Trial) -> str:
    """Like with like: real cold processes where both were started so, else what is added up for every trial."""
    measured, its = cold_start_measured(best), cold_start_measured(reference)
    if measured is None or its is None:
        estimates_s = cold_start_estimate_s(best), cold_start_estimate_s(reference)
        return "cold start {:.1f} s against {:.1f} s (estimated)".format(*estimates_s)
    counts = f"{measured[1]}" if measured[1] == its[1] else f"{measured[1]} and {its[1]}"
    return f"cold start {measured[0]:.1f} s against {its[0]:.1f} s (p50 of {counts})"


def study_note(results: Results) -> str:
    """The study in Markdown, for the dashboard's note."""
    compiled, best = results.torch_compile, winner(results)
    rows = [("reference", results.reference), ("torch.compile", compiled), ("best", best)]
    ties = None if best is None else ties_note(results, best)
    lines = [
        " ".join([gain(results), *doubts(results)]),
        "",
        " ".join(filter(None, [floor_note(results), ties])),
        "",
        f"{len(results.trials)} trials on {results.fingerprint.device_name}; {len(results.failures)} failed.",
        "",
        "| | trial | latency | peak memory | cold start | pictures | configuration |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for label, trial in rows:
        if trial is not None and trial.complete:
            lines.append(
                f"| {label} | {trial.number} | {milliseconds(trial.figure('latency_ms'))} "
                f"| {trial.figure('peak_vram_gib'):.2f} GiB | {cold_start_words(trial)} "
                f"| {quality(results, trial)} | {trial.configuration} |"
            )
    lines += ["", "Optuna marks as best what no other trial beats by any difference; the report and `best` know ties."]
    lines += ["", f"Export the best: `paretune export {results.name} -o bundle`"]
    return "\n".join(lines)
