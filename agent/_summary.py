"""A study in words: the one-line gain, and the figures that every report shows."""

from ..objectives.intervals import Comparison
from ..objectives.verdict import Verdict
from ..studies import Outcome, RunRecord
from ._finalists import confirmations
from ._results import Results, Trial


def winner(results: Results) -> Trial | None:
    """The fastest configuration that keeps the study's limits, if any was measured."""
    return results.best_or_none()


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


def evidence(results: Results, trial: Trial) -> str:
    """What a verdict rests on, in the words of objectives/evidence.py; empty without a verdict."""
    if not results.study.workload.quality_assessed or "quality" not in trial.measurements:
        return ""
    return str(trial.measurements["quality"].get("evidence", ""))


def within_benign_floor(results: Results, trial: Trial) -> bool | None:
    """Whether a trial's pictures drift no further than those of the same arithmetic reordered; None if unknown."""
    floor = results.record.benign_floor
    if floor is None or floor.get("drift") is None or trial.measurements.get("drift") is None:
        return None
    return float(trial.measurements["drift"]) <= float(floor["drift"])


def gain(results: Results) -> str:
    """One sentence: what the best acceptable configuration gains over the reference and over torch.compile."""
    best, reference = winner(results), results.reference
    if best is None or best is reference:
        return f"No measured configuration of {results.name} is faster than the reference and keeps the study's limits."
    compiled = results.torch_compile
    if compiled is best:
        against = "which is torch.compile itself"
    elif compiled is not None and compiled.complete:
        against = _compared(results, best, compiled, "torch.compile")
    else:
        against = "torch.compile was not measured" if compiled is None else f"torch.compile ended as {compiled.outcome}"
    both = f"{milliseconds(best.figure('latency_ms'))} against {milliseconds(reference.figure('latency_ms'))}"
    cold, cold_reference = best.figure("cold_start_s"), reference.figure("cold_start_s")
    return (
        f"{_compared(results, best, reference, 'the reference', both)}, {against}; pictures: {quality(results, best)}; "
        f"memory {best.figure('peak_vram_gib'):.2f} GiB against {reference.figure('peak_vram_gib'):.2f} GiB; "
        f"cold start {cold:.1f} s against {cold_reference:.1f} s."
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
    return f"{words} ({'; '.join(filter(None, [both, detail]))})"


def confirmed_against(results: Results, trial: Trial, name: str) -> Comparison | None:
    """What confirming found of a trial against "the reference" or "torch.compile"; None when it was not confirmed."""
    found = confirmations(results).get(trial.number)
    return None if found is None else found.against.get(name.removeprefix("the "))


def shortfall(results: Results) -> str | None:
    """Why the gain is small, in one sentence; None when the best acceptable trial is 1.5 times as fast or more."""
    best, reference = winner(results), results.reference
    ratio = speed_up(reference, best) if best else 1.0
    if best is not None and (comparison := confirmed_against(results, best, "the reference")) is not None:
        ratio = 1 / comparison.ratio
    if ratio >= 1.5:
        return None
    faster = [t for t in results.complete if speed_up(reference, t) >= 1.5 and not results.acceptable(t)]
    if not faster:
        return f"Nothing acceptable was shown to be 1.5 times as fast as the reference ({len(results.trials)} trials)."
    which = "One configuration" if len(faster) == 1 else f"{len(faster)} configurations"
    return (
        f"{which} reached 1.5 times the reference's speed and broke the study's limits; the pictures: "
        f"{', '.join(sorted({str(t.verdict) for t in faster}, key=lambda v: Verdict(v).rank))}."
    )


def floor_note(results: Results) -> str:
    """The noise floor in one sentence."""
    if results.floor is None:
        return "The noise floor was not measured: small differences may be noise."
    latency, memory = (results.floor.of_figure(name) for name in ("latency_ms", "peak_vram_gib"))
    return (
        f"Noise floor: {latency:.1%} in latency and {memory:.1%} in memory, from {results.floor.processes} processes "
        "of the unchanged reference; smaller differences are ties."
    )


def ties_note(results: Results) -> str | None:
    """The configurations that may be as fast as the best one."""
    best = winner(results)
    if best is None:
        return None
    tied = [trial.number for trial in results.ties_of(best)]
    if not tied:
        return None
    which = f"trial {tied[0]}" if len(tied) == 1 else f"trials {', '.join(map(str, tied))}"
    return (
        f"Trial {best.number} ties with {which}; of what is surely faster than the reference, "
        "the one that loses least is taken."
    )


def confirmation_note(results: Results) -> str | None:
    """What speaks against trusting the best one: it was not confirmed, or confirming said otherwise."""
    best = winner(results)
    if best is None or best is results.reference:
        return None
    found = confirmations(results).get(best.number)
    if found is None:
        return f"Trial {best.number} was not confirmed in blocks against the reference; a launch does that at its end."
    if found.confirmed:
        return None
    words = "; ".join(f"against {name}: {comparison.words()}" for name, comparison in found.against.items())
    return f"Confirming trial {best.number} did not show that it is faster ({words})."


def machine_note(results: Results) -> str | None:
    """What the machine did meanwhile that casts doubt on the figures."""
    last = {run.session: run for run in results.runs("canary")}  # a canary outside the floor is tried again
    moved = sum(not _inside_floor(results, run) for run in last.values())
    words = [f"the reference moved beyond the noise floor {moved} time{'s' if moved > 1 else ''}"] if moved else []
    throttled = [t.number for t in results.complete if any(s.get("throttled") for s in t.measurements["latency"])]
    if throttled:
        which = f"trial{'s' if len(throttled) > 1 else ''} {', '.join(map(str, throttled))}"
        words.append(f"the GPU was throttled in {which}")
    foreign = {
        process["name"]
        for trial in results.complete
        for process in trial.measurements.get("machine", {}).get("foreign_gpu_processes", [])
    }
    if foreign:
        words.append(f"other programs used the GPU ({', '.join(sorted(foreign))})")
    return f"While it was measured, {'; '.join(words)}." if words else None


def _inside_floor(results: Results, run: RunRecord) -> bool:
    if results.floor is None or run.outcome != Outcome.COMPLETE:
        return True
    return results.floor.tie("latency_ms", results.reference.figure("latency_ms"), run.measurements["latency_ms"])


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


def doubts(results: Results) -> list[str]:
    """What a reader has to know before trusting the gain; empty when nothing speaks against it."""
    notes = (shortfall(results), confirmation_note(results), machine_note(results), unsteady_note(results))
    return [note for note in notes if note is not None]


def study_note(results: Results) -> str:
    """The study in Markdown, for the dashboard's note."""
    compiled, best = results.torch_compile, winner(results)
    rows = [("reference", results.reference), ("torch.compile", compiled), ("best", best)]
    lines = [
        " ".join([gain(results), *doubts(results)]),
        "",
        " ".join(filter(None, [floor_note(results), ties_note(results)])),
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
