"""A study in words: the one-line gain, and the figures that every report shows."""

from ..objectives.verdict import Verdict
from ..studies import UserError
from ._results import Results, Trial


def winner(results: Results) -> Trial | None:
    """The fastest configuration that keeps the study's limits, if any was measured."""
    try:
        return results.best()
    except UserError:
        return None


def speed_up(slower: Trial, faster: Trial) -> float:
    """How many times as fast `faster` is."""
    return slower.figure("latency_ms") / faster.figure("latency_ms")


def spread(trial: Trial) -> str:
    """How far the timed calls lie apart: "n=6, 412-431 ms"."""
    shapes = trial.measurements["latency"]
    n = sum(shape["n"] for shape in shapes)
    if len(shapes) > 1:
        return f"n={n} in {len(shapes)} shapes"
    return f"n={n}, {milliseconds(shapes[0]['min_ms'])} to {milliseconds(shapes[0]['max_ms'])}"


def milliseconds(value: float) -> str:
    """ "412 ms", "1.92 s"."""
    return f"{value:.0f} ms" if value < 1000 else f"{value / 1000:.2f} s"


def quality(results: Results, trial: Trial) -> str:
    """The verdict in words; never a figure for pictures that mean nothing."""
    if not results.study.workload.quality_assessed:
        return "not assessed (random weights)"
    return str(trial.verdict)


def gain(results: Results) -> str:
    """One sentence: what the best acceptable configuration gains over the reference and over torch.compile."""
    best, reference = winner(results), results.reference
    if best is None or best is reference:
        return f"No measured configuration of {results.name} is faster than the reference and keeps the study's limits."
    compiled = results.torch_compile
    if compiled is not None and compiled.complete:
        against = _compared(best, compiled, "torch.compile")
    else:
        against = "torch.compile was not measured" if compiled is None else f"torch.compile ended as {compiled.outcome}"
    cold, cold_reference = best.figure("cold_start_s"), reference.figure("cold_start_s")
    return (
        f"{_compared(best, reference, 'the reference')} "
        f"({milliseconds(best.figure('latency_ms'))} against {milliseconds(reference.figure('latency_ms'))}), "
        f"{against}; pictures: {quality(results, best)}; "
        f"memory {best.figure('peak_vram_gib'):.2f} GiB against {reference.figure('peak_vram_gib'):.2f} GiB; "
        f"cold start {cold:.1f} s against {cold_reference:.1f} s."
    )


def _compared(best: Trial, other: Trial, name: str) -> str:
    """A ratio only where there is a difference: calls that overlap do not show one."""
    if _overlap(best, other):
        return f"no faster than {name} that the calls would show"
    return f"{speed_up(other, best):.2f} times as fast as {name}"


def shortfall(results: Results) -> str | None:
    """Why the gain is small, in one sentence; None when the best acceptable trial is 1.5 times as fast or more."""
    best, reference = winner(results), results.reference
    ratio = speed_up(reference, best) if best else 1.0
    if ratio >= 1.5:
        return None
    faster = [trial for trial in results.complete if speed_up(reference, trial) >= 1.5]
    if not faster:
        return f"Nothing that was tried reached 1.5 times the reference's speed ({len(results.trials)} trials)."
    which = "One configuration" if len(faster) == 1 else f"{len(faster)} configurations"
    return (
        f"{which} reached 1.5 times the reference's speed and broke the study's limits; the pictures: "
        f"{', '.join(sorted({str(t.verdict) for t in faster}, key=lambda v: Verdict(v).rank))}."
    )


def overlap_note(results: Results) -> str | None:
    """A difference that lies within the spread of single calls is not a finding."""
    best = winner(results)
    if best is None or best is results.reference:
        return None
    compiled = results.torch_compile
    others = [("the reference", results.reference)]
    if compiled is not None and compiled.complete and compiled is not best:
        others.append(("torch.compile", compiled))
    close = [name for name, other in others if _overlap(best, other)]
    if not close:
        return None
    return (
        f"The timed calls of the best configuration and of {' and of '.join(close)} overlap: "
        "the difference may be noise. More calls (measurement.calls) would tell."
    )


def unsteady_note(results: Results) -> str | None:
    """Calls of one configuration that differ by half are not the pipeline's doing."""
    unsteady = [
        trial.number
        for trial in results.complete
        if any(shape["max_ms"] > 1.5 * shape["min_ms"] for shape in trial.measurements["latency"])
    ]
    if not unsteady:
        return None
    one = len(unsteady) == 1
    return (
        f"The slowest timed call took more than 1.5 times as long as the fastest in {'trial' if one else 'trials'} "
        f"{', '.join(map(str, unsteady))}: something else probably ran on the machine. Measure again before you decide."
    )


def _overlap(one: Trial, other: Trial) -> bool:
    pairs = zip(one.measurements["latency"], other.measurements["latency"], strict=False)
    return all(a["min_ms"] <= b["max_ms"] and b["min_ms"] <= a["max_ms"] for a, b in pairs)


def doubts(results: Results) -> list[str]:
    """What a reader has to know before trusting the gain; empty when nothing speaks against it."""
    return [note for note in (shortfall(results), overlap_note(results), unsteady_note(results)) if note is not None]


def study_note(results: Results) -> str:
    """The study in Markdown, for the dashboard's note."""
    compiled, best = results.torch_compile, winner(results)
    rows = [("reference", results.reference), ("torch.compile", compiled), ("best", best)]
    lines = [
        " ".join([gain(results), *doubts(results)]),
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
                f"| {trial.figure('peak_vram_gib'):.2f} GiB | {trial.figure('cold_start_s'):.1f} s "
                f"| {quality(results, trial)} | {trial.configuration} |"
            )
    lines += ["", f"Export the best: `paretune export {results.name} -o bundle`"]
    return "\n".join(lines)
