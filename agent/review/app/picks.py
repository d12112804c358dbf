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


def picks(results: Results, limits: list[Limit], verdict: Verdict | None, storage: list[str]) -> list[Pick]:
    """Fastest lossless, fastest near-lossless, smallest. verdict: the worst that the page accepts. storage: the words
    by which a command finds the database.
    """
    lossless = verdict if verdict is not None and verdict.at_least(LOSSLESS) else LOSSLESS
    near = verdict if verdict is not None and verdict.at_least(Verdict.NEAR_LOSSLESS) else Verdict.NEAR_LOSSLESS
    asked: list[tuple[str, Verdict | None, str, Loss | None]] = (
        [
            ("Fastest lossless", lossless, "latency_ms", None),
            ("Fastest near-lossless", near, "latency_ms", None),
            ("Smallest", verdict, "peak_vram_gib", None),
        ]
        if results.quality_assessed
        else [
            ("Fastest lossless", None, "latency_ms", Loss.REORDERED),
            ("Fastest", None, "latency_ms", None),
            ("Smallest", None, "peak_vram_gib", None),
        ]
    )
    return [_pick(title, results, limits, worst, by, loss, storage) for title, worst, by, loss in asked]


def _pick(
    title: str,
    results: Results,
    limits: list[Limit],
    verdict: Verdict | None,
    by: str,
    loss: Loss | None,
    storage: list[str],
) -> Pick:
    words = ["paretune", "best", results.name, *(word for limit in limits for word in ("--limit", str(limit)))]
    words += ["--verdict", str(verdict)] if verdict is not None else []
    words += ["--loss", str(loss)] if loss is not None else []
    words += ["--by", by] if by != "latency_ms" else []
    command = shlex.join([*words, *storage])
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
