"""What is known of a trial's cost before anything was measured."""

from ._by_device import MEMORY
from ._configuration import Configuration
from ._technique import Trait
from ._techniques import technique

COMPILING, TUNING = 8.0, 4.0
TUNED = ("max-autotune", "max-autotune-no-cudagraphs", "coordinate_descent")
"""Values of parameters with which a compiler tries kernels on the device."""
MAKES_NOTHING_FASTER = frozenset(offer.technique for offer in MEMORY)
"""Techniques that save memory, and time at best none."""


def patience(configuration: Configuration) -> float:
    """How many times as long as an ordinary trial this one takes, roughly: SDXL is called eagerly for 15 s, compiled in
    one to three minutes, and not tuned in ten.
    """
    compiles = tunes = False
    for step in configuration.steps:
        if Trait.COMPILES in technique(step.technique).traits_with(step.parameters):
            compiles = True
            tunes = tunes or any(value in TUNED for value in step.values().values())
    return (COMPILING if compiles else 1.0) * (TUNING if tunes else 1.0)
