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
        against = f"{speed_up(compiled, best):.2f} times as fast as torch.compile"
    else:
        against = "torch.compile was not measured" if compiled is None else f"torch.compile ended as {compiled.outcome}"
    cold, cold_reference = best.figure("cold_start_s"), reference.figure("cold_start_s")
    return (
        f"{speed_up(reference, best):.2f} times as fast as the reference "
        f"({milliseconds(best.figure('latency_ms'))} against {milliseconds(reference.figure('latency_ms'))}), "
        f"{against}; pictures: {quality(results, best)}; "
        f"memory {best.figure('peak_vram_gib'):.2f} GiB against {reference.figure('peak_vram_gib'):.2f} GiB; "
        f"cold start {cold:.1f} s against {cold_reference:.1f} s."
    )


def shortfall(results: Results) -> str | None:
    """Why the gain is small, in one sentence; None when the best acceptable trial is 1.5 times as fast or more."""
    best, reference = winner(results), results.reference
    ratio = speed_up(reference, best) if best else 1.0
    if ratio >= 1.5:
        return None
    faster = [trial for trial in results.complete if speed_up(reference, trial) >= 1.5]
    if not faster:
        return f"Nothing that was tried reached 1.5 times the reference's speed ({len(results.trials)} trials)."
    return (
        f"{len(faster)} configurations reached 1.5 times the reference's speed and break the study's limits: "
        f"their pictures are {', '.join(sorted({str(t.verdict) for t in faster}, key=lambda v: Verdict(v).rank))}."
    )


def study_note(results: Results) -> str:
    """The study in Markdown, for the dashboard's note."""
    compiled, best = results.torch_compile, winner(results)
    rows = [("reference", results.reference), ("torch.compile", compiled), ("best", best)]
    lines = [
        gain(results),
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
