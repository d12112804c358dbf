"""A trial's figures as people read them: latency, speed, cold start, energy and money, pictures, broken limits."""

from dataclasses import dataclass

from ...objectives.measuring.energy import cost_per_1000_images
from .limits import constraint_values
from .results import Results, Trial


@dataclass(frozen=True)
class Speed:
    """How many times as fast as the reference a trial is, and how that is known."""

    times: float
    tie: bool = False
    """Nothing was shown: the difference is within the noise floor, or the blocks' interval holds 1."""
    interval: tuple[float, float] | None = None
    """The 95 % interval in confirming blocks, whose ratio `times` is then; None when the trial was measured once."""
    blocks: int = 0

    def __str__(self) -> str:
        words = f"{self.times:.2f}x"
        if self.interval is not None:
            words += f" ({self.interval[0]:.2f} to {self.interval[1]:.2f} in {self.blocks} blocks)"
        return f"{words}, a tie" if self.tie else words


def speed(results: Results, trial: Trial) -> Speed:
    """A trial's speed against the reference: as confirmed in blocks where it was, which are the better measurement."""
    reference = results.reference
    if trial is reference:
        return Speed(1.0)
    comparison = results.confirmed(reference, trial)
    if comparison is None:
        return Speed(speed_up(reference, trial), results.tie("latency_ms", reference, trial))
    interval = (1 / comparison.high, 1 / comparison.low)
    return Speed(1 / comparison.ratio, comparison.decision == "tie", interval, comparison.blocks)


def speed_up(slower: Trial, faster: Trial) -> float:
    """How many times as fast `faster` was when each was measured once."""
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


def cold_start_estimate_s(trial: Trial) -> float:
    """Imports (timed once per study), applying and the first call, added up: what every complete trial has."""
    return trial.figure("cold_start_s")


def cold_start_measured(trial: Trial) -> tuple[float, int] | None:
    """(median in s, n) of real cold processes; None for a trial that was not started cold."""
    cold = trial.measurements.get("cold_start")
    return None if cold is None else (trial.figure("cold_start_measured_s"), int(cold["n"]))


def cold_start_words(trial: Trial) -> str:
    """ "5.5 s (5.7 s, p50 of 3)": the estimate, and behind it what real cold processes took."""
    measured = cold_start_measured(trial)
    words = f"{cold_start_estimate_s(trial):.1f} s"
    return words if measured is None else f"{words} ({measured[0]:.1f} s, p50 of {measured[1]})"


def cost(results: Results, trial: Trial) -> float | None:
    """What 1,000 images cost, in the currency of the study's price; None without a price."""
    price, per_image_ms = results.study.price_per_gpu_hour, trial.measurements.get("latency_per_image_ms")
    return None if price is None or per_image_ms is None else cost_per_1000_images(per_image_ms / 1000, price)


def energy_j(trial: Trial) -> float | None:
    """J per image; None where it was not measured."""
    found = trial.measurements.get("energy_j")
    return None if found is None else float(found)


def cost_words(results: Results, trial: Trial) -> list[str]:
    """What 1,000 images cost and the energy of one, as far as the price and the energy are known; the cost first."""
    words = []
    if (money := cost(results, trial)) is not None:
        words.append(f"{money:.2f} per 1,000 images" if money >= 0.1 else f"{money:.2g} per 1,000 images")
    if (energy := energy_j(trial)) is not None:
        words.append(f"{energy:.0f} J per image" if energy >= 10 else f"{energy:.2g} J per image")
    return words


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


def broken_limits(results: Results, trial: Trial) -> list[str]:
    """The study's limits that a complete trial breaks, each in words."""
    limits = results.study.limits
    words = {
        "verdict": f"pictures are {trial.verdict}, the limit is {limits.verdict}",
        "latency_ms": f"latency is over {milliseconds(limits.latency_ms or 0)}",
        "peak_vram_gib": f"memory is over {limits.peak_vram_gib or 0:g} GiB",
        "cold_start_s": f"cold start is over {limits.cold_start_s or 0:g} s",
    }
    return [words[name] for name, value in constraint_values(results.study, trial.measurements).items() if value > 0]
