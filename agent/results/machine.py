"""Whether canaries found the machine to be what it was."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...objectives.noise_floor import NoiseFloor
from ...studies import LinkedRun, RunKind, RunRecord


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
    place: str
    """Where it was measured."""


def floors_of(runs: Sequence[RunRecord], least: int) -> dict[str, NoiseFloor]:
    """{place: its noise floor}, of each place where the reference was measured in so many processes.

    Places that work side by side disturb each other, so what was measured while all of them worked says what their
    trials are compared with; `runs` that had the machine to themselves count only where there are no others.
    """
    by_place: dict[str, list[RunRecord]] = {}
    for run in runs:
        by_place.setdefault(run.worker, []).append(run)
    found = {}
    for place, made in by_place.items():
        together = [run for run in made if "beside" in run.measurements]
        measured = [run.measurements for run in together or made]
        if len(measured) >= max(least, 2):
            found[place] = NoiseFloor.of(measured)
    return found


def floor_of_all(floors: Mapping[str, NoiseFloor], home: str) -> NoiseFloor | None:
    """The floor that holds at every place: of each figure the widest; its values are those of the place `home`."""
    if len(floors) < 2:
        return next(iter(floors.values()), None)
    values = floors.get(home, next(iter(floors.values()))).values
    widest = {name: max(floor.of_figure(name) for floor in floors.values()) for name in values}
    return NoiseFloor(sum(floor.processes for floor in floors.values()), widest, values)


@dataclass(frozen=True)
class Disturbance:
    """What working side by side costs the places of one machine."""

    place: str
    places: int
    """So many worked at once."""
    alone_ms: float
    """The reference's latency with the other places idle: the median of its processes."""
    together_ms: float

    @property
    def change(self) -> float:
        """Relative; above 0 is slower."""
        return self.together_ms / self.alone_ms - 1

    def words(self) -> str:
        """In a sentence."""
        return (
            f"With {self.places} places at work at once, the unchanged reference took {self.together_ms:.0f} ms at "
            f"{self.place}, against {self.alone_ms:.0f} ms with the others idle ({self.change:+.1%}). Trials are "
            "compared with the reference of their own place, measured while all of them worked; confirming blocks run "
            "with the others idle."
        )


def disturbance(runs: Sequence[RunRecord]) -> Disturbance | None:
    """Of the place where the reference was measured alone and with all others at work; None without either."""
    alone = [run for run in runs if "beside" not in run.measurements]
    if not alone:
        return None
    place = alone[0].worker
    together = [run for run in runs if run.worker == place and "beside" in run.measurements]
    if not together:
        return None
    alone_ms, together_ms = (
        statistics.median(run.measurements["latency_ms"] for run in made if run.worker == place)
        for made in (alone, together)
    )
    return Disturbance(place, max(int(run.measurements["beside"]) for run in together), alone_ms, together_ms)


def canaries(floors: Mapping[str, NoiseFloor], runs: Sequence[LinkedRun]) -> list[Canary]:
    """Every canary that could be measured, in order; none where a place has no noise floor, which alone can say what is
    inside.
    """
    last: dict[tuple[int, str], LinkedRun] = {}
    for one in runs:
        if one.run.kind == RunKind.CANARY and one.run.worker in floors:
            last[one.run.session, one.run.worker] = one
    return [
        Canary(
            link=one.link,
            after_trials=trials_before(runs, one.link),
            at=one.run.finished_at,
            latency_ms=(now_ms := float(one.run.measurements["latency_ms"])),
            change=now_ms / floors[one.run.worker].middle("latency_ms") - 1,
            inside=floors[one.run.worker].holds("latency_ms", now_ms),
            place=one.run.worker,
        )
        for one in last.values()
        if one.run.complete
    ]


def trials_before(runs: Sequence[LinkedRun], link: int) -> int:
    """How many trials a study had taken up before one of its runs."""
    return len({one.trial for one in runs if one.run.kind == RunKind.TRIAL and one.link < link})


def in_doubt(found: Sequence[Canary], link: int, place: str) -> bool:
    """Whether the canary before a run or the one after it, at its place, found the reference elsewhere than before."""
    there = [canary for canary in found if canary.place == place]
    before = [canary for canary in there if canary.link < link]
    after = [canary for canary in there if canary.link > link]
    return any(not canary.inside for canary in (*before[-1:], *after[:1]))
