"""Compiled code for a bundle: every way to keep it is built, measured in fresh processes, and the best is taken.

Which way starts fastest, and whether its code is as fast as that of torch.compile, differs from configuration to
configuration, and some fail. So none of them is believed.
"""

import hashlib
import itertools
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...objectives.measuring.building import PORTABLE, WAYS
from ...objectives.verdict import Verdict
from ...studies import UserError
from ..trial import empty_caches, run_script, write_json
from .cold_starts import measure_cold_starts
from .manifest import SCHEMA_VERSION, entries_of
from .proof import count_twice
from .signing import trust_file
from .trust import ARTEFACTS, MANIFEST
from .verify import judge_pictures

COLD_STARTS = 5
"""Fresh processes of each way, unless more or fewer are asked for."""
TIMEOUT_S = 3600
AS_FAST = 0.05
"""A way whose code is slower than another's by more than this, relative, and the noise floor, is no choice."""
TIMES_COMPILING = 4.0
"""Building and measuring may take so many times as long as the building alone: what is over is used for cold starts,
and a way that comes when nothing is over is not tried."""
HOW_IT_ENDED = "way.json"
BUILDING, COUNTING, TIMING = 12, 2, 3
"""How long the steps of a way take, against a cold start: for the progress bar."""

NOT_TRIED = "not tried"
NOT_FINISHED = "not measured to the end"
HOPELESS = 3.0
"""So many times the quickest way's cold start, and the rest of what is measured of a way is left out."""
NOTHING_COMPILED = "nothing in the configuration is compiled"
NOT_ASKED_FOR = "they were not asked for"

OnStep = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Way:
    """One way to keep compiled code, and what came of it here."""

    name: str
    failed: str | None = None
    """Why it is not used; then nothing else is known but what had been measured before."""
    parts: int = 0
    """Pieces of code that were built."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """{part: why nothing was built for it}: it runs as it does without artefacts."""
    build_s: float | None = None
    """The process that built it, in which everything was compiled."""
    cold_start_s: float | None = None
    """Interpreter, imports, apply() and the first request, without loading weights; the median of fresh processes."""
    cold_start: Mapping[str, float] = field(default_factory=dict)
    """Its phases, in s, each the median by itself, and how many processes (`n`); see agent/trial/cold_start.py."""
    peak_gib: float | None = None
    """Memory until the first picture: of the GPU, or on a CPU of the process."""
    captures: int | None = None
    """CUDA graphs that loading and one round of all requests capture: what `verify --cold` expects."""
    took_s: float = 0.0
    """Building, and everything that was measured."""
    latency_ms: float | None = None
    size_bytes: int | None = None
    pictures: str = ""

    @property
    def not_tried(self) -> bool:
        """Whether there was no time for it."""
        return self.failed is not None and self.failed.startswith(NOT_TRIED)

    @property
    def why_not(self) -> str:
        """Why it is not used, in words that may follow its name."""
        given_up = self.failed is not None and self.failed.startswith((NOT_TRIED, NOT_FINISHED))
        return f"{'was' if given_up else 'failed:'} {(self.failed or '').rstrip('.')}"


@dataclass(frozen=True)
class Artefacts:
    """What is known of a bundle's compiled code."""

    why_not: str | None = None
    """Why none was built."""
    ways: tuple[Way, ...] = ()
    """The best one first."""

    @property
    def times_compiling(self) -> float | None:
        """How many times as long all of it took as building what was built; None where nothing was."""
        building = sum(way.build_s for way in self.ways if way.build_s is not None)
        return sum(way.took_s for way in self.ways) / building if building else None

    def words(self) -> str:
        """What was built and how long that took, in sentences; empty where nobody expects any."""
        if self.why_not in (NOTHING_COMPILED, NOT_ASKED_FOR):
            return ""
        if self.why_not is not None:
            return f"It has no compiled code: {self.why_not}."
        tried = [way for way in self.ways if not way.not_tried]
        took = f"Trying {len(tried)} of {len(self.ways)} ways to keep compiled code took "
        took += f"{sum(way.took_s for way in tried):.0f} s"
        if self.times_compiling is not None:
            took += f", {self.times_compiling:.1f} times as long as the building alone"
        said = [f"{took}, and none works: every worker compiles."]
        if self.kept is not None:
            said = [f"{took}. {self.kept.name} is in the bundle: a cold start takes {self.kept.cold_start_s:.1f} s."]
            said += [f"It has no compiled code for {part}: {why}." for part, why in self.kept.reasons.items()]
        for way in self.ways:
            if way.failed is not None:
                said.append(f"{way.name} {way.why_not}.")
        return " ".join(said)

    @property
    def kept(self) -> Way | None:
        """The way that is in the bundle."""
        return self.ways[0] if self.ways and self.ways[0].failed is None else None


@dataclass(frozen=True)
class Wanted:
    """What the ways are measured against."""

    device: str
    packages: Sequence[str]
    calls: int
    """Timed, for each shape of request."""
    warm_up_calls: int
    latency_ms: float
    """Of the trial: code that is slower does not spare the other ways anything."""
    floor: float
    """Of the latency, relative."""
    pictures: Sequence[Path]
    """The evidence."""
    verdict: Verdict
    cold_starts: int = COLD_STARTS
    """Fresh processes of each way; one, where building was so short that more would take longer than it may."""
    times_compiling: float = TIMES_COMPILING
    processes: int = 1
    """That build side by side."""


def build_ways(bundle: Path, work: Path, wanted: Wanted, on_step: OnStep = lambda done, total, text: None) -> list[Way]:
    """Build and measure each way for a bundle that has everything but artefacts. The best one's are put into it.

    work: a folder where what is finished stays when this is interrupted; called again for the same files, it goes on
    from there. Returns every way, the best one first where there is any; the caller removes `work`.
    """
    files = {name: entry["sha256"] for name, entry in entries_of(bundle).items()}
    key = hashlib.sha256(json.dumps([files, wanted.device, wanted.calls]).encode()).hexdigest()
    each = BUILDING + wanted.cold_starts + COUNTING + TIMING
    ways: list[Way] = []
    for number, name in enumerate(WAYS):
        place = work / name
        if not (place / "key").is_file() or (place / "key").read_text() != key:
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(bundle, place / "bundle")
            shutil.copyfile(trust_file(), place / "bundle" / "trust.py")
            (place / "key").write_text(key)
        ended = place / HOW_IT_ENDED
        if ended.is_file():
            ways.append(Way(**json.loads(ended.read_text())))
            continue
        if ways and (way := _no_time(name, ways, wanted)) is not None:
            ways.append(way)
            continue
        began = time.monotonic()

        def step(done: int, text: str, number: int = number) -> None:
            on_step(number * each + done, each * len(WAYS), text)

        try:
            way = _try(name, place, wanted, _quickest(ways, wanted), step)
            write_json(ended, asdict(way))
        except (RuntimeError, TimeoutError, UserError) as error:
            reason = " ".join(str(error).split())[:500] or "it took too long"
            way = Way(name, failed=reason, took_s=time.monotonic() - began)
        ways.append(way)
    ways.sort(key=lambda way: _rank(way, ways, wanted.floor))
    if ways[0].failed is None:
        shutil.copytree(work / ways[0].name / "bundle" / ARTEFACTS, bundle / ARTEFACTS)
    return ways


def _no_time(name: str, ways: Sequence[Way], wanted: Wanted) -> Way | None:
    """A way that is not tried, because what was tried has taken as long as all of it may."""
    building = sum(way.build_s for way in ways if way.build_s is not None)
    took = sum(way.took_s for way in ways)
    if not building or took <= wanted.times_compiling * building:
        return None
    why = f"the others took {took:.0f} s, {wanted.times_compiling:g} times as long as building them"
    return Way(name, failed=f"{NOT_TRIED}: {why}")


def _quickest(ways: Sequence[Way], wanted: Wanted) -> Way | None:
    """Which starts first, of those whose code is as fast as that of the trial."""
    good = [way for way in ways if way.failed is None and not _is_slow(way, wanted.latency_ms, wanted.floor)]
    return min(good, key=_cold_s, default=None)


def _is_slow(way: Way, than_ms: float, floor: float) -> bool:
    return (way.latency_ms or 0.0) > than_ms * (1 + floor + AS_FAST)


def _cold_s(way: Way) -> float:
    return way.cold_start_s or 0.0


def _rank(way: Way, ways: Sequence[Way], floor: float) -> tuple[bool, bool, float]:
    """The smaller the better: it works, its code is fast, it starts fast."""
    fastest = min((one.latency_ms for one in ways if one.latency_ms is not None and one.failed is None), default=0.0)
    return (way.failed is not None, _is_slow(way, fastest, floor), _cold_s(way))


def _try(name: str, place: Path, wanted: Wanted, quickest: Way | None, on_step: Callable[[int, str], None]) -> Way:
    """Build in one way, and measure what was built, as long as it may be better than the quickest of the others. Raises
    RuntimeError, TimeoutError.
    """
    bundle = place / "bundle"
    script, artefacts = bundle / "check" / "run.py", bundle / ARTEFACTS

    def run(out: str, *options: str) -> dict[str, Any]:
        with empty_caches() as environment:
            return run_script(
                script,
                ["--device", wanted.device, *options],
                out=place / out,
                environment=environment,
                timeout_s=TIMEOUT_S,
            )

    beside = f" in {wanted.processes} processes" if wanted.processes > 1 and name != PORTABLE else ""
    on_step(0, f"{name}: building{beside}")
    # What an interrupted export had built is there, and took as long.
    before_s = sum(part["seconds"] for part in _parts_in(artefacts))
    began = time.monotonic()
    options = ["--artefacts", str(artefacts), "--processes", str(wanted.processes)]
    built = run("build", "--build", name, *options, "--packages", *wanted.packages)
    built_s = time.monotonic() - began + before_s
    files = entries_of(bundle)
    write_json(bundle / MANIFEST, {"schema": SCHEMA_VERSION, "files": files})
    size_bytes = sum(int(entry["size_bytes"]) for path, entry in files.items() if path.startswith(f"{ARTEFACTS}/"))
    if quickest is not None:
        on_step(BUILDING, f"{name}: a first cold start")
        first = measure_cold_starts(bundle, wanted.device, 1)
        first_s, least_s = first.medians["cold_start_s"], _cold_s(quickest)
        if first_s > HOPELESS * least_s:
            return Way(
                name,
                failed=f"{NOT_FINISHED}: a cold start takes {first_s:.1f} s, and {least_s:.1f} s in {quickest.name}",
                parts=built["parts"],
                build_s=built_s,
                took_s=before_s + time.monotonic() - began,
                cold_start_s=first_s,
                cold_start={**first.medians, "n": first.n},
                size_bytes=size_bytes,
            )
    # What has to be measured first: what is left of the time is for cold starts.
    on_step(BUILDING, f"{name}: what is captured")
    counted = count_twice(script, wanted.device, place / "twice", bundle)
    on_step(BUILDING + COUNTING, f"{name}: latency and pictures")
    calls = ["--calls", str(wanted.calls), "--most-calls", str(wanted.calls)]
    measured = run("steady", *calls, "--warm-up-calls", str(wanted.warm_up_calls))
    done = itertools.count(BUILDING + COUNTING + TIMING)
    cold = measure_cold_starts(
        bundle,
        wanted.device,
        wanted.cold_starts,
        most_s=wanted.times_compiling * built_s - before_s - (time.monotonic() - began),
        on_step=lambda text: on_step(next(done), f"{name}: {text}"),
    )
    if entries_of(bundle) != files:
        raise RuntimeError("loading it changes its files")
    asked = {request["name"] for request in json.loads((script.parent / "workload.json").read_text())["requests"]}
    shown = [file for file in wanted.pictures if file.stem.rpartition("-")[0] in asked]
    pictures = judge_pictures(shown, place / "steady" / "pictures.npz", wanted.verdict)
    if not pictures.passed:
        raise RuntimeError(f"its pictures are others: {pictures.text}")
    return Way(
        name,
        parts=built["parts"],
        reasons=built["reasons"],
        build_s=built_s,
        took_s=before_s + time.monotonic() - began,
        cold_start_s=cold.medians["cold_start_s"],
        cold_start={**cold.medians, "n": cold.n},
        peak_gib=cold.peak_gib,
        captures=counted.captures,
        latency_ms=measured["latency_ms"],
        size_bytes=size_bytes,
        pictures=pictures.text,
    )


def _parts_in(artefacts: Path) -> Sequence[Mapping[str, Any]]:
    index = artefacts / "index.json"
    return json.loads(index.read_text())["parts"] if index.is_file() else ()
