"""What makes a configuration acceptable: the study's limits, and those that are asked for on the command line."""

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

from ...objectives.figures import FIGURES
from ...studies import Study, UserError

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
ASKABLE = tuple(figure.name for figure in FIGURES if figure.can_be_optimised)
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
            if match and match[1] in ASKABLE:
                return cls(match[1], match[2], float(match[3]))
        except ValueError:
            pass
        raise UserError(f"--limit {text!r}: write it as FIGURE<=NUMBER, with one of {', '.join(ASKABLE)}")

    def met_by(self, value: float | None) -> bool:
        """Whether a value keeps the limit; what was not measured does not."""
        return value is not None and _OPERATORS[self.comparison](value, self.value)

    def __str__(self) -> str:
        return f"{self.figure}{self.comparison}{self.value:g}"


def limit_words(study: Study) -> list[str]:
    """The study's limits, each in words."""
    verdict = study.limits.verdict
    words = [] if verdict is None else [f"pictures {verdict} or better"]
    if verdict is not None and not study.workload.quality_assessed:
        words = [f"pictures {verdict} or better, not assessed (random weights)"]
    for figure in FIGURES:
        limit = study.bound(figure.name)
        if limit is not None:
            words.append(f"{figure.label} up to {figure.text(limit)}")
    return words
