"""What bounds many places: a launch at 64 and at 1,000 of them, whose trials are answered by a formula in no time.

    python benchmarks/scale.py --places 8 64 --trials 120       # whole launches
    python benchmarks/scale.py --asks 64:64 250:250 500:500      # one proposal with so many known, and so many running

The launcher is real: the loop, the surrogate, Optuna's sampler, the database (SQLite), the files. Only the
places are not: each answers after simulated seconds, in the order in which it would. So the launcher is never waited
for, and what it takes per trial bounds how many places it can keep busy: with trials of `--trial-s` seconds, so many
places as trials that it can propose and store in that time. Seconds are processor time of the launching thread.
"""

import argparse
import hashlib
import heapq
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np
from paretune.agent.search import launch
from paretune.agent.search.loop import SearchLoop
from paretune.agent.search.surrogate import Known, Surrogate
from paretune.agent.trial import Job, TrialResult
from paretune.objectives.fingerprint import Fingerprint
from paretune.search_space import Configuration, SearchSpace, known_techniques
from paretune.studies import RunKind
from support.machines import fingerprint
from support.replaying import World

IDLE_S = 2.0
"""Without a proposal for so long, the launcher waits for what is left."""
OFTEN = (
    "channels_last",
    "fused_qkv",
    "deepcache",
    "vae_slicing",
    "vae_tiling",
    "torch_compile",
    "sdpa_kernel",
    "dtype",
)
PARTS = ("_guide", "_propose", "_collect")


class Simulated(World):
    """Places that answer in simulated time."""

    def begin(self, places: int) -> None:
        """Have so many."""
        self.names = [f"gpu-{index:04d}" for index in range(places)]
        self.now_s, self.last = 0.0, time.monotonic()
        self.lock = threading.Lock()
        self.running: list[tuple[float, int, str, Future[TrialResult], TrialResult]] = []
        self.idle = list(self.names)
        threading.Thread(target=self._let_the_last_ones_end, daemon=True).start()

    def places(self) -> Sequence[str]:  # type: ignore[override]
        return self.names

    def submit(self, kind: RunKind, job: Job, place: str | None = None) -> "Future[TrialResult]":
        """A trial ends when its seconds are over; anything else at once."""
        Path(job.folder).mkdir(parents=True, exist_ok=True)
        configuration = str(Configuration.from_dict(job.configuration))
        self.latency_ms[configuration] = _latency_ms(job.configuration)
        result = self.run(kind, job)
        future: Future[TrialResult] = Future()
        if kind is not RunKind.TRIAL or not configuration or configuration == str(Configuration()):
            future.set_result(replace(result, place=place or self.names[0]))
            return future
        with self.lock:
            where = self.idle.pop(0)
            ends_s = self.now_s + 40 + 40 * _share(configuration + where)
            heapq.heappush(
                self.running,
                (ends_s, id(future), where, future, replace(result, place=where, phases_s={"measure": 60})),
            )
            self.last = time.monotonic()
            if not self.idle:
                self._end_one()
        return future

    def _end_one(self) -> None:
        self.now_s, _, where, future, result = heapq.heappop(self.running)
        self.idle.append(where)
        future.set_result(result)

    def _let_the_last_ones_end(self) -> None:
        while True:
            time.sleep(0.05)
            with self.lock:
                if self.running and time.monotonic() - self.last > IDLE_S:
                    self._end_one()


def _share(text: str) -> float:
    """Of 1, always the same for a text."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32


def _latency_ms(configuration: Any) -> float:
    """Techniques act independently on its logarithm."""
    latency_ms = 2000.0
    for step in Configuration.from_dict(configuration).steps:
        latency_ms *= 0.75 + 0.3 * _share(f"{step.technique}{step.values()}")
    return latency_ms


def measured(places: int, trials: int) -> dict[str, Any]:
    """What the launcher took."""
    took: dict[str, list[float]] = {name: [] for name in PARTS}
    originals: dict[str, Callable[..., Any]] = {name: getattr(SearchLoop, name) for name in PARTS}

    def timed(name: str) -> Callable[..., Any]:
        @wraps(originals[name])
        def call(self: SearchLoop) -> Any:
            began = time.thread_time()
            try:
                return originals[name](self)
            finally:
                took[name].append(time.thread_time() - began)

        return call

    for name in PARTS:
        setattr(SearchLoop, name, timed(name))
    try:
        with tempfile.TemporaryDirectory(prefix="paretune-scale-") as folder:
            world = Simulated(Path(folder), device="cuda", fingerprint=Fingerprint.from_dict(fingerprint("cuda")))
            world.begin(places)
            study = world.study(
                "scale",
                [],
                device="cuda",
                space={"recipes": True},
                sampler={"guided": True},
                measurement={"floor_processes": 2, "canary_every": 0},
                budget={"trials": trials},
            )
            began = time.monotonic()
            results = launch(study, storage=world.storage, runner=world)
            database = (Path(folder) / "paretune.db").stat().st_size
            found = {"trials": len(results.trials), "wall_s": time.monotonic() - began, "database": database}
    finally:
        for name, original in originals.items():
            setattr(SearchLoop, name, original)
    tail = max(5, trials // 10)
    asks = [a + b for a, b in zip(took["_guide"], took["_propose"], strict=False)]
    return {
        **found,
        "places": places,
        "ask_s": statistics.median(asks),
        "ask_last_s": statistics.median(asks[-tail:]),
        "tell_s": statistics.median(took["_collect"]),
        "tell_last_s": statistics.median(took["_collect"][-tail:]),
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def asked(known: int, running: int) -> float:
    """Processor seconds of one proposal of the surrogate."""
    space = SearchSpace.of({technique.name: {} for technique in known_techniques() if technique.name in OFTEN})
    random = np.random.default_rng(1)
    surrogate = Surrogate(space, lambda configuration: configuration not in taken, 1)
    made: dict[Configuration, None] = {Configuration(): None}
    while len(made) < known + running:
        names = [name for name in space.techniques if random.random() < 0.4]
        chosen = {
            name: {key: values[int(random.integers(len(values)))] for key, values in space.techniques[name].items()}
            for name in names
        }
        made.setdefault(Configuration.of(chosen), None)
    taken = set(made)
    configurations = list(made)
    seen = [
        Known(
            configuration=one, works=True, objectives=(_latency_ms(one.to_dict()), 10.0 + _share(str(one))), seconds=60
        )
        for one in configurations[:known]
    ]
    began = time.thread_time()
    surrogate.propose(seen, configurations[known:])
    return time.thread_time() - began


def main() -> None:
    """A line for each number of places."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--places", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--trial-s", type=float, default=60.0, help="what a trial takes at a place")
    parser.add_argument("--asks", nargs="+", metavar="KNOWN:RUNNING", help="time single proposals instead of launches")
    options = parser.parse_args()
    if options.asks:
        print("| known | running | one proposal, s |\n| --- | --- | --- |")
        for text in options.asks:
            known, running = map(int, text.split(":"))
            print(f"| {known} | {running} | {asked(known, running):.2f} |", flush=True)
        return
    print(
        "| places | trials | ask, s | the last ones | store and tell, s | the last ones | trials per second "
        "| places kept busy | memory, MiB | database, KiB per trial |"
    )
    print("| --- " * 10 + "|")
    for places in options.places:
        found = measured(places, options.trials)
        rate = 1 / (found["ask_last_s"] + found["tell_last_s"])
        cells = [
            *(found["places"], found["trials"]),
            *(f"{found[name]:.3f}" for name in ("ask_s", "ask_last_s", "tell_s", "tell_last_s")),
            *(f"{rate:.1f}", f"{rate * options.trial_s:.0f}"),
            *(f"{found['memory_mib']:.0f}", f"{found['database'] / 1024 / found['trials']:.0f}"),
        ]
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
