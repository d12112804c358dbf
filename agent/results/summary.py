"""A study in words: its headline, its noise floor, ties. Every speed in them is one that blocks have confirmed."""

from datetime import UTC, datetime

from ...objectives.figures import FIGURE, joules
from ...objectives.measuring.intervals import Comparison
from .confirmation import Confirmation
from .front import TIE_RULE
from .results import Results
from .trial import Trial, numbers


def headline(results: Results) -> str:
    """One sentence or two: what the best acceptable configuration gains over the reference, over torch.compile as
    people write it, and over the best that torch.compile alone reaches.

    Only what blocks have confirmed is a gain; anything else is named as unconfirmed, without a speed.
    """
    best, reference = results.best_or_none, results.reference
    if best is None:
        return f"No measured configuration of {results.name} keeps the study's limits."
    confirmation = best.confirmation
    fits = _fits(best) if reference.broken_limits() and best is not reference else ""
    if confirmation is not None and confirmation.reference is not None and confirmation.faster:
        return fits + _claim(results, best, confirmation, confirmation.reference)
    if fits and not results.reference_contradicted:
        return f"{fits}{_traded(best)}"
    if results.reference_contradicted and (confirmation is None or confirmation.reference is None):
        return (
            f"There is no result for {results.name}: the reference took a different time whenever it was measured "
            "again, so nothing can be compared with it."
        )
    if not best.surely_less("latency_ms", reference):
        if all(trial.figure("latency_ms") >= reference.figure("latency_ms") for trial in results.acceptable):
            return (
                f"No measured configuration of {results.name} is faster than the reference and keeps the study's "
                "limits."
            )
        return (
            f"No configuration of {results.name} could be shown to be faster than the reference: what keeps the limits "
            "differs from it by no more than the noise."
        )
    return (
        f"No gain of {results.name} is confirmed. Trial {best.number} ({best.configuration}) was faster than the "
        "reference when each was measured once: it is unconfirmed."
    )


def _fits(best: Trial) -> str:
    """That the limits rule the unchanged pipelines out, and what keeps them."""
    broken = "; ".join(best.results.reference.broken_limits())
    return f"The unchanged pipelines break the study's limits ({broken}); trial {best.number} keeps them. "


def _traded(best: Trial) -> str:
    """What a configuration that keeps the limits costs, where it is not faster than the reference."""
    results, reference = best.results, best.results.reference
    found = None if best.confirmation is None else best.confirmation.reference
    if found is None:
        time = f"{best.text('latency_ms')} against {reference.text('latency_ms')} when each was measured once"
    else:
        least, most = (1 / times for times in reversed(found.interval))
        time = (
            f"{found.ratio:.2f} times as long ({best.text('latency_ms')} against {reference.text('latency_ms')}; 95 % "
            f"interval {least:.2f} to {most:.2f} in {found.blocks} blocks of fresh processes)"
        )
    pictures = best.verdict_words()
    if best.picture_count and results.quality_assessed:
        pictures += f" (on {best.picture_count} pictures)"
    return (
        f"What was traded: memory {best.text('peak_vram_gib')} against {reference.text('peak_vram_gib')}; {time}; "
        f"pictures: {pictures}."
    )


def _claim(results: Results, best: Trial, confirmation: Confirmation, found: Comparison) -> str:
    reference, compiled = results.reference, results.torch_compile
    low, high = found.interval
    if compiled is best:
        against = "which is torch.compile itself"
    elif confirmation.torch_compile is not None:
        against = _against_compiled(confirmation.torch_compile)
    elif compiled is None:
        against = "torch.compile was not measured"
    elif not compiled.complete:
        against = f"torch.compile ended as {compiled.outcome}"
    else:
        against = "torch.compile was not in the blocks"
    if confirmation.torch_compile_best is not None:
        against += f", {_against_compiled(confirmation.torch_compile_best, ' at its best')}"
    pictures = best.verdict_words()
    if best.picture_count and results.quality_assessed:
        pictures += f" (on {best.picture_count} pictures)"
    return (
        f"{found.times:.2f} times as fast as the reference ({best.text('latency_ms')} against "
        f"{reference.text('latency_ms')}; 95 % interval {low:.2f} to {high:.2f} in {found.blocks} blocks of fresh "
        f"processes{_places(best)}), {against}; {_busy(best, reference)}pictures: {pictures}; "
        f"memory {best.text('peak_vram_gib')} against {reference.text('peak_vram_gib')}; "
        f"{_cold_starts(best, reference)}."
    )


def _places(best: Trial) -> str:
    """Whether a second place found the same."""
    places = best.faster_at
    if len(places) < 2:
        return ""
    slower = [place for place, faster in places.items() if not faster]
    kind = "GPUs" if best.results.fingerprint.device_kind == "cuda" else "places"
    return f", not confirmed at {', '.join(slower)}" if slower else f", confirmed on {len(places)} {kind}"


def _busy(best: Trial, reference: Trial) -> str:
    """What a speed has to be read with: where the host was what kept the reference slow, another host has another."""
    shares = [trial.gpu_busy_share for trial in (best, reference)]
    if None in shares:
        return ""
    its, references = (f"{100 * (share or 0):.0f} %" for share in shares)
    return f"GPU busy in {its} of the time against {references}; "


def _against_compiled(found: Comparison, how: str = "") -> str:
    low, high = found.interval
    if found.decision == "tie":
        return f"a tie with torch.compile{how} ({low:.2f} to {high:.2f})"
    return f"{found.times:.2f} times as fast as torch.compile{how} ({low:.2f} to {high:.2f})"


def _cold_starts(best: Trial, reference: Trial) -> str:
    """Like with like: real cold processes where both were started so, else what is added up for every trial."""
    measured, its = best.cold_start_measured, reference.cold_start_measured
    text = FIGURE["cold_start_s"].text
    if measured is None or its is None:
        return f"cold start {best.text('cold_start_s')} against {reference.text('cold_start_s')} (estimated)"
    counts = f"{measured['n']}" if measured["n"] == its["n"] else f"{measured['n']} and {its['n']}"
    both = f"cold start {text(measured['cold_start_s'])} against {text(its['cold_start_s'])}"
    loaded = "" if best.cold_start_way is None else ", with its compiled code loaded"
    return f"{both} (median of {counts} fresh processes{loaded})"


def cold_start_words(trial: Trial) -> str:
    """ "5.7 s (median of 3; estimated 5.5 s)" where real cold processes were timed, else "5.5 s (estimated)"; of what
    loads compiled code from its bundle, also what it takes to compile: "5.5 s (estimated; 90.0 s when it compiles)".
    """
    measured, estimate = trial.cold_start_measured, trial.text("cold_start_s")
    compiles = f"; {compiling} when it compiles" if (compiling := compiling_text(trial)) else ""
    if measured is None:
        return f"{estimate} (estimated{compiles})"
    real = FIGURE["cold_start_s"].text(measured["cold_start_s"])
    return f"{real} (median of {measured['n']}; estimated {estimate}{compiles})"


def compiling_text(trial: Trial) -> str:
    """What a cold start takes that compiles, of a trial that can load compiled code instead; else an empty text."""
    compiling_s = float(trial.measurements["cold_start_s"])
    if (started := trial.cold_starts.get(None)) is not None:
        compiling_s = started["cold_start_s"]
    if trial.cold_start_way is None and (trial.cold_starts or trial.figure("cold_start_s") >= compiling_s):
        return ""
    return FIGURE["cold_start_s"].text(compiling_s)


def floor_note(results: Results) -> str | None:
    """The noise floor in one sentence; None on an unsteady machine, of which a doubt tells."""
    floor = results.floor
    if floor is None:
        return "The noise floor was not measured: small differences may be noise."
    if floor.unsteady:
        return None
    side_by_side = results.disturbance
    more = "" if side_by_side is None else f" {side_by_side.words()}"
    return (
        f"Noise floor: {floor.text('latency_ms')} in latency and {floor.text('peak_vram_gib')} in memory, from "
        f"{floor.processes} processes of the unchanged reference; smaller differences are ties.{more}"
    )


def ties_note(trial: Trial, by: str = "latency_ms") -> str | None:
    """The acceptable trials that cannot be told apart from this one in a figure; None when there is none, and where
    the machine was too unsteady to tell any apart.
    """
    tied = trial.ties(by)
    if not tied or (by == "latency_ms" and trial.results.unsteady):
        return None
    others = [other for other in tied if not other.is_reference]
    names = ["the reference"] if len(others) < len(tied) else []
    names += [numbers(others)] if others else []
    sentence = f"Trial {trial.number} ties with {' and '.join(names)} in {FIGURE[by].label}."
    return f"{sentence} {TIE_RULE}" if by == "latency_ms" and trial is trial.results.best_or_none else sentence


def pictures_note(results: Results) -> str | None:
    """On which pictures trials are compared with each other; None where pictures mean nothing."""
    shared = len(results.shared_pictures)
    if not results.quality_assessed or not shared:
        return None
    which = "the picture" if shared == 1 else f"the {shared} pictures"
    return (
        f"Drift is compared on {which} that every trial has; a verdict rests on all of a trial's pictures, of which "
        "finalists have more."
    )


def cost_words(trial: Trial) -> list[str]:
    """What 1,000 images cost and the energy of one, as far as the price and the energy are known; the cost first."""
    words = []
    if (money := trial.cost_per_1000_images()) is not None:
        words.append(f"{money:.2f} per 1,000 images" if money >= 0.1 else f"{money:.2g} per 1,000 images")
    if (energy := trial.measurements.get("energy_j")) is not None:
        words.append(f"{joules(float(energy))} per image")
    return words


def evidence_words(trial: Trial) -> str:
    """What a verdict rests on, in the words of objectives/evidence.py; empty without a verdict."""
    return str(trial.quality.get("evidence", "")) if trial.results.quality_assessed else ""


def age_words(finished_at: str, now: datetime | None = None) -> str:
    """ "3 hours old", from an ISO 8601 time."""
    age_s = ((now or datetime.now(UTC)) - datetime.fromisoformat(finished_at)).total_seconds()
    for unit, length_s in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if age_s >= length_s:
            count = int(age_s // length_s)
            return f"{count} {unit}{'s' if count > 1 else ''} old"
    return "less than a minute old"


def call_words(trial: Trial) -> list[str]:
    """How far the timed calls of a trial's own process lie apart and why no more were made; of several shapes of
    request a line each. What they gave is said where it is not the latency that is shown (see `Results.latency_ms`).
    """
    text = FIGURE["latency_ms"].text
    shapes = trial.measurements["latency"]
    alone = text(trial.measurements["latency_ms"])
    lines = [] if alone == trial.text("latency_ms") else [f"as a trial: {alone}"]
    for shape in shapes:
        calls = f"n={shape['n']}, {text(shape['min_ms'])} to {text(shape['max_ms'])}"
        why = f"interval {shape['interval']:.1%}, {_STOPS[shape['stop']]}"
        if len(shapes) == 1:
            return [*lines, calls, why]
        names = shape["requests"]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        lines.append(f"{names[0]}{more}: {text(shape['median_ms'])} ({calls}, {why})")
    return lines


_STOPS = {"interval": "narrow enough", "time": "time spent", "calls": "calls spent", "dominated": "ended early"}
