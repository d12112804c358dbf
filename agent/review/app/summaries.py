"""A study in a line: what it optimises, on what, how far it is, and what it gained."""

from dataclasses import dataclass
from datetime import datetime

from ....studies import UserError
from ...results import Results, Trial
from .shelf import Shelf

PACE_OF = 10
"""Trials: the last ones, by whose ends the pace is known."""
SILENT_S = 60.0
"""A launch of which nothing was heard for so long has ended."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One study of the list. Where it cannot be read, `problem` says why and the rest is empty."""

    name: str
    problem: str = ""
    description: str = ""
    workload: str = ""
    device: str = ""
    launched_at: str = ""
    trials: int = 0
    budget: int = 0
    failures: int = 0
    running: bool = False
    left: str = ""
    """ "about 4 min", while it runs."""
    over_reference: str = ""
    """The best configuration's gain, as every page writes it; empty without one."""
    over_compile: str = ""
    confirmed: bool = False
    best: int | None = None


def summaries(shelf: Shelf) -> list[Summary]:
    """Every study, the newest first. One that cannot be read hides no other."""
    return [_summary_or_problem(shelf, name) for name in reversed(shelf.names())]


def _summary_or_problem(shelf: Shelf, name: str) -> Summary:
    try:
        with shelf.open(name) as results:
            return summary(results, is_running(shelf, name))
    except UserError as error:
        return Summary(name=name, problem=str(error))


def is_running(shelf: Shelf, name: str) -> bool:
    """Whether somebody launches it now."""
    silent_s = shelf.records.silent_s(name)
    return silent_s is not None and silent_s < SILENT_S


def summary(results: Results, running: bool) -> Summary:
    """Of a study that can be read, whether or not its reference has been measured."""
    best = results.best_or_none if results.acceptable else None
    gained = None if best is None or best.is_reference else best
    study, record = results.study, results.record
    return Summary(
        name=results.name,
        description=study.description,
        workload=workload_words(results),
        device=results.fingerprint.device_name,
        launched_at=record.created_at,
        trials=len(results.trials),
        budget=study.budget.trials,
        failures=len(results.failures),
        running=running,
        left=_left(results) if running else "",
        over_reference="" if gained is None else _over_reference(gained),
        over_compile="" if gained is None else _over_compile(gained),
        confirmed=gained is not None and gained.confirmed,
        best=None if gained is None else gained.number,
    )


def workload_words(results: Results) -> str:
    """ "StableDiffusionXLPipeline, 6 requests, 1024 × 1024"."""
    described = results.study.workload_description()
    pipelines = [str(spec.get("class", name)) for name, spec in described.get("pipelines", {}).items()]
    requests = described["requests"]
    sizes = dict.fromkeys(f"{one['width_px']} × {one['height_px']}" for one in requests)
    size = next(iter(sizes)) if len(sizes) == 1 else f"{len(sizes)} sizes"
    what = " and ".join(dict.fromkeys(pipelines)) or "own Python file"
    return f"{what}, {len(requests)} request{'s' if len(requests) != 1 else ''}, {size}"


def _over_reference(trial: Trial) -> str:
    speed = trial.speed
    if speed.times is None:
        return ""
    if speed.tie:
        return "a tie"
    return _times(speed.times, speed.interval)


def _over_compile(trial: Trial) -> str:
    compiled, confirmation = trial.results.torch_compile, trial.confirmation
    if compiled is trial:
        return "is torch.compile"
    if confirmation is not None and confirmation.torch_compile is not None:
        found = confirmation.torch_compile
        return "a tie" if found.decision == "tie" else _times(found.times, found.interval)
    if compiled is None or not compiled.complete:
        return ""
    if trial.ties_with("latency_ms", compiled):
        return "a tie"
    return _times(compiled.figure("latency_ms") / trial.figure("latency_ms"), None)


def _times(times: float, interval: tuple[float, float] | None) -> str:
    between = "" if interval is None else f" ({interval[0]:.2f} to {interval[1]:.2f})"
    return f"{times:.2f}×{between}"


def _left(results: Results) -> str:
    """How long the rest of the trials will take: as long as those so far, or where several are measured at a time, at
    the pace at which the last ones came.
    """
    own = [trial for trial in results.trials if trial.elsewhere is None and not trial.is_reference]
    to_go = results.study.budget.trials - len(results.trials)
    if to_go <= 0:
        return "after the last trial: confirming the best"
    if not own:
        return "the first trials are being measured"
    each_s = [sum(sum(trial.timing.phases_s.values()) for trial in own) / len(own)]
    ended = sorted(datetime.fromisoformat(trial.timing.finished_at) for trial in own)[-PACE_OF:]
    if len(ended) > 1 and ended[-1] > ended[0]:
        each_s.append((ended[-1] - ended[0]).total_seconds() / (len(ended) - 1))
    seconds = to_go * min(each_s)
    amount = f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
    return f"about {amount} for {to_go} more trial{'s' if to_go != 1 else ''}"
