"""Every quantity that is shown, compared or limited: the one table that study files, reports and JSON read.

A new quantity is measured in a file of its own and gets a line here.
"""

from collections.abc import Callable
from dataclasses import dataclass


def milliseconds(value: float) -> str:
    """ "412 ms", "1.92 s"."""
    return f"{value:.0f} ms" if round(value) < 1000 else f"{value / 1000:.2f} s"


def gibibytes(value: float) -> str:
    """ "2.10 GiB"."""
    return f"{value:.2f} GiB"


def seconds(value: float) -> str:
    """ "5.5 s"."""
    return f"{value:.1f} s"


def joules(value: float) -> str:
    """ "164 J", "0.41 J"."""
    return f"{value:.0f} J" if value >= 10 else f"{value:.2g} J"


def drift_text(value: float) -> str:
    """Two decimals; what is not 0 never looks like it, because 0 is bit-exact."""
    return "< 0.01" if 0 < value < 0.005 else f"{value:.2f}"


def count(value: float) -> str:
    """ "3"."""
    return f"{value:.0f}"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured quantity of a configuration; less is better for all of them."""

    name: str
    """As in a trial's measurements, with its unit."""
    label: str
    """For people: "latency", as in "a tie in latency"."""
    unit: str
    meaning: str
    """What it is, as the end of a sentence."""
    text: Callable[[float], str]
    """How a value is written."""
    measured_in: str
    """The pass of a trial that measures it."""
    has_floor: bool = False
    """Whether it varies from process to process of the same configuration, so that small differences are ties."""
    least_difference: float = 0.0
    """Relative: smaller differences are ties however exactly they repeat, because nobody would act on them."""
    can_be_limited: bool = False
    """Whether `limits:` of a study file may bound it."""
    may_be_zero: bool = False
    """Whether its limit may be 0."""
    can_be_optimised: bool = False
    """Whether `objectives:` of a study file may name it."""


FIGURES: tuple[Figure, ...] = (
    Figure(
        name="latency_ms",
        label="latency",
        unit="ms",
        meaning="what a request takes, on average over the mix",
        text=milliseconds,
        measured_in="the timed calls",
        has_floor=True,
        can_be_limited=True,
        can_be_optimised=True,
    ),
    Figure(
        name="peak_vram_gib",
        label="peak memory",
        unit="GiB",
        meaning="GPU memory while requests are served; on a CPU, the process's main memory",
        text=gibibytes,
        measured_in="a call of its own",
        has_floor=True,
        least_difference=0.01,
        can_be_limited=True,
        can_be_optimised=True,
    ),
    Figure(
        name="drift",
        label="drift",
        unit="1",
        meaning="how far the pictures are from the reference's, from 0 (bit-exact) up",
        text=drift_text,
        measured_in="judging the pictures",
        can_be_optimised=True,
    ),
    Figure(
        name="cold_start_s",
        label="cold start",
        unit="s",
        meaning="from a fresh process to its first picture, loading the weights not counted",
        text=seconds,
        measured_in="applying and the first call",
        has_floor=True,
        least_difference=0.05,
        can_be_limited=True,
        can_be_optimised=True,
    ),
    Figure(
        name="swap_stall_ms",
        label="stall after an adapter change",
        unit="ms",
        meaning="what a request waits extra when adapters were loaded or unloaded before it, within a trace",
        text=milliseconds,
        measured_in="the timed calls",
        has_floor=False,
        least_difference=0.05,
        can_be_limited=True,
    ),
    Figure(
        name="recompiles",
        label="recompilations",
        unit="1",
        meaning="graphs that torch.compile made in the timed calls, which come after the warm-up",
        text=count,
        measured_in="the timed calls",
        can_be_limited=True,
        may_be_zero=True,
    ),
    Figure(
        name="recaptures",
        label="recorded CUDA graphs",
        unit="1",
        meaning="CUDA graphs that were recorded in the timed calls, which come after the warm-up",
        text=count,
        measured_in="the timed calls",
        can_be_limited=True,
        may_be_zero=True,
    ),
    Figure(
        name="energy_j",
        label="energy per image",
        unit="J",
        meaning="what the GPU takes for one picture",
        text=joules,
        measured_in="the timed calls",
    ),
)

FIGURE = {figure.name: figure for figure in FIGURES}
