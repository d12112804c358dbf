"""Measures one configuration: the package that travels beside every apply.py.

Every trial folder, and every bundle's `check/`, has a copy of this folder. So it runs where paretune is not installed:
its files import the standard library and each other, and torch and pynvml only inside the functions that need them.
"""

from .contract import InvalidOutputError
from .loading import load_file
from .measure import Made, measure_configuration
from .phases import Phases
from .plan import Plan
from .variants import VARIANT, VARIANT_SEEDS, variant

__all__ = [
    "VARIANT",
    "VARIANT_SEEDS",
    "InvalidOutputError",
    "Made",
    "Phases",
    "Plan",
    "load_file",
    "measure_configuration",
    "variant",
]
