"""Whether canaries found the machine to be what it was."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...objectives.noise_floor import NoiseFloor
from ...studies import LinkedRun, RunKind


@dataclass(frozen=True)
class Canary:
    """The unchanged reference, measured again: several times while it lies outside the noise floor."""

    link: int
    """Of its last attempt; runs with a smaller one were made before it."""
    after_trials: int
    at: str
    latency_ms: float
    """Of its last attempt, which decides."""
    change: float
    """Relative to the median of the noise floor's processes."""
    inside: bool
    """Whether the reference was where it had been."""


def canaries(floor: NoiseFloor | None, runs: Sequence[LinkedRun]) -> list[Canary]:
    """Every canary that could be measured, in order; none without a noise floor, which alone can say what is inside."""
    if floor is None:
        return []
    middle_ms = floor.middle("latency_ms")
    last: dict[int, LinkedRun] = {}
    for one in runs:
        if one.run.kind == RunKind.CANARY:
            last[one.run.session] = one
    return [
        Canary(
            link=one.link,
            after_trials=trials_before(runs, one.link),
            at=one.run.finished_at,
            latency_ms=(now_ms := float(one.run.measurements["latency_ms"])),
            change=now_ms / middle_ms - 1,
            inside=floor.holds("latency_ms", now_ms),
        )
        for one in last.values()
        if one.run.complete
    ]


def trials_before(runs: Sequence[LinkedRun], link: int) -> int:
    """How many trials a study had taken up before one of its runs."""
    return len({one.trial for one in runs if one.run.kind == RunKind.TRIAL and one.link < link})


def in_doubt(found: Sequence[Canary], link: int) -> bool:
    """Whether the canary before a run or the one after it found the reference elsewhere than it had been."""
    before = [canary for canary in found if canary.link < link]
    after = [canary for canary in found if canary.link > link]
    return any(not canary.inside for canary in (*before[-1:], *after[:1]))
