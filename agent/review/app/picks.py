"""The three configurations that a reader is pointed to, under the page's limits: chosen as `paretune best` does."""

import shlex
from dataclasses import dataclass

from ....objectives.verdict import Verdict
from ....search_space import Loss
from ....studies import UserError
from ...results import Limit, Results, Trial
from .points import LOSSLESS


@dataclass(frozen=True, kw_only=True)
class Pick:
    """One of them; without a trial, `why` says what stood in the way."""

    title: str
    trial: int | None = None
    text: str = ""
    latency: str = ""
    memory: str = ""
    speed: str = ""
    verdict: str = ""
    confirmed: bool = False
    is_reference: bool = False
    command: str = ""
    """What gives the same on the command line."""
    why: str = ""


def picks(results: Results, limits: list[Limit], verdict: Verdict | None) -> list[Pick]:
    """Fastest lossless, fastest near-lossless, smallest. verdict: the worst that the page accepts."""
    worst = None if verdict is None else Verdict(verdict)
    if not results.quality_assessed:
        return [
            _pick("Fastest lossless", results, limits, None, "latency_ms", Loss.REORDERED),
            _pick("Fastest", results, limits, None, "latency_ms", None),
            _pick("Smallest", results, limits, None, "peak_vram_gib", None),
        ]
    return [
        _pick("Fastest lossless", results, limits, _stricter(LOSSLESS, worst), "latency_ms", None),
        _pick("Fastest near-lossless", results, limits, _stricter(Verdict.NEAR_LOSSLESS, worst), "latency_ms", None),
        _pick("Smallest", results, limits, worst, "peak_vram_gib", None),
    ]


def _stricter(one: Verdict, other: Verdict | None) -> Verdict:
    return one if other is None or one.at_least(other) else other


def _pick(
    title: str, results: Results, limits: list[Limit], verdict: Verdict | None, by: str, loss: Loss | None
) -> Pick:
    words = ["paretune", "best", results.name, *(word for limit in limits for word in ("--limit", str(limit)))]
    words += ["--verdict", str(verdict)] if verdict is not None else []
    words += ["--loss", str(loss)] if loss is not None else []
    words += ["--by", by] if by != "latency_ms" else []
    command = shlex.join(words)
    try:
        found = results.best(by=by, limits=limits, verdict=verdict, loss=loss)
    except UserError as error:
        return Pick(title=title, command=command, why=str(error))
    return _shown(title, command, found)


def _shown(title: str, command: str, trial: Trial) -> Pick:
    return Pick(
        title=title,
        trial=trial.number,
        text=str(trial.configuration) if trial.configuration.steps else "the reference: nothing is changed",
        latency=trial.text("latency_ms"),
        memory=trial.text("peak_vram_gib"),
        speed=str(trial.speed),
        verdict=trial.verdict_words(),
        confirmed=trial.confirmed,
        is_reference=trial.is_reference,
        command=command,
    )
