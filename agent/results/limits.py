"""What makes a configuration acceptable: the numbers that the sampler sees as constraints, and `best` as limits."""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...objectives.verdict import Verdict
from ...studies import Study, UserError

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
MEASURED = ("latency_ms", "peak_vram_gib", "drift", "cold_start_s")
"""The figures that every complete trial has (drift only where quality is assessed)."""


@dataclass(frozen=True)
class Limit:
    """One condition on a measured figure, as a user writes it: "peak_vram_gib<=20"."""

    figure: str
    comparison: str
    value: float

    @classmethod
    def parse(cls, text: str) -> "Limit":
        """Raises UserError when the text is not FIGURE<=NUMBER."""
        match = re.fullmatch(r"\s*(\w+)\s*(<=|>=|<|>)\s*([0-9.eE+-]+)\s*", text)
        try:
            if match and match[1] in MEASURED:
                return cls(match[1], match[2], float(match[3]))
        except ValueError:
            pass
        raise UserError(f"--limit {text!r}: write it as FIGURE<=NUMBER, with one of {', '.join(MEASURED)}")

    def met_by(self, measurements: Mapping[str, Any]) -> bool:
        """Whether a trial's measurements keep the limit; what was not measured does not."""
        value = measurements.get(self.figure)
        return value is not None and _OPERATORS[self.comparison](float(value), self.value)

    def __str__(self) -> str:
        return f"{self.figure}{self.comparison}{self.value:g}"


def constraint_values(study: Study, measurements: Mapping[str, Any]) -> dict[str, float]:
    """What a complete trial tells the sampler: at most 0 where the study's limit is kept. Always in the same order."""
    values = {}
    if study.limits.verdict is not None and study.workload.quality_assessed:
        values["verdict"] = float(measurements["drift"]) - Verdict(study.limits.verdict).drift_limit
    for figure in ("latency_ms", "peak_vram_gib", "cold_start_s"):
        limit = getattr(study.limits, figure)
        if limit is not None:
            values[figure] = float(measurements[figure]) / limit - 1
    return values
