"""Every technique alone: what works, what is refused or fails and why, and what it earns.

    python benchmarks/techniques.py --workload sdxl --out benchmarks/tables/techniques --budget-s 520      # a CUDA GPU
    python benchmarks/techniques.py --workload quickstart --out benchmarks/tables/techniques               # GPU or CPU
    python benchmarks/techniques.py --tiny --out /tmp/techniques --only fused_qkv                          # a try
    python benchmarks/techniques.py --out benchmarks/tables/techniques --write docs/techniques.md

Each variant that `paretune techniques --json` lists runs in a process of its own, forked from one that has imported
everything; several at a time, because compiling takes a processor and timing takes the GPU. Calls of the pipeline are
made in turns, under a lock, but for the first one of what compiles. One process keeps the unchanged pipeline and times
it every few seconds: a ratio is to what it needed just before and just after. On a CPU there is one variant at a time,
and the unchanged pipeline is timed after each. Every result is appended to OUT/WORKLOAD-DEVICE.jsonl at once, and the
same command goes on with what is not there yet.
"""

import argparse
import contextlib
import fcntl
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PLAIN, COMPILED, TUNED = range(3)
"""What a variant costs: seconds; a minute or two of compiling; many minutes of trying kernels."""
PLAIN_LIMIT_S = 150.0
LEFT_FOR_PLAIN = 3
"""Processes that do not compile, as long as there is something for them to do."""
REFERENCE_EVERY_S = 8.0
WAITS_FOR_MEMORY = 5
SLOW_S = 4.0
"""A call that takes longer is timed once: others wait."""
UNFINISHED = "unfinished"
TINY = """
from paretune.testing.tiny_sdxl import picture, tiny_sdxl

def load(device):
    return {"main": tiny_sdxl(device)}

def run(pipelines, request):
    return picture(pipelines["main"], request.prompt, batch=1, steps=request.steps, seed=request.seed)
"""


@dataclass(frozen=True)
class Variant:
    """One way to use a technique."""

    technique: str
    values: Mapping[str, Any]
    words: str
    cost: int
    is_default: bool


@dataclass(frozen=True)
class Bench:
    """What every process has to know."""

    device: str
    workload: Mapping[str, Any]
    """The content of workload.json."""
    assessed: bool
    """Whether pictures mean something: not with random weights."""
    calls: int
    folder: Path
    results: Path
    run: float
    """When this run began, which tells runs apart."""

    def add(self, **row: Any) -> None:
        """Append a line to the results, whole."""
        line = json.dumps({**row, "run": self.run}) + "\n"
        file = os.open(self.results, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)

    @property
    def alone(self) -> bool:
        """Whether loading, compiling and judging take what the others' calls are timed on."""
        return self.device == "cpu"

    @contextlib.contextmanager
    def turn(self, *, first: bool = False) -> Iterator[None]:
        """Nobody else calls a pipeline meanwhile. Ends with the process, whatever happens to it.

        first: before everybody else who waits. A lock has no order: one of many may not get it for minutes.
        """
        due = self.folder / "due"
        if first:
            due.touch()
        while not first and due.exists():
            time.sleep(0.02)
        with (self.folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            due.unlink(missing_ok=True)
            yield


def all_variants() -> list[Variant]:
    """In the order in which they are tried: the cheap before the dear, the defaults of every technique first."""
    from paretune.search_space import Configuration, Step, Trait, known_techniques, variants

    found = []
    for known in known_techniques():
        for parameters in variants(known):
            values = parameters.model_dump()
            tuned = str(values.get("mode", "")).startswith("max-autotune") or values.get("recipe") in (
                "coordinate_descent",
                "diffusion_fast",
            )
            compiles = Trait.COMPILES in known.traits_with(parameters)
            cost = TUNED if tuned else COMPILED if compiles else PLAIN
            words = str(Configuration((Step(known.name, parameters),)))
            found.append(Variant(known.name, values, words, cost, values == known.parameters().model_dump()))
    return sorted(found, key=lambda variant: (variant.cost, not variant.is_default))


class Pipeline:
    """A workload's pipelines in this process, and one request that is timed."""

    def __init__(self, bench: Bench, folder: Path, techniques: Mapping[str, Any]) -> None:
        from paretune.agent.trial import write_trial_folder
        from paretune.objectives.measuring import load_file
        from paretune.search_space import Configuration, apply_source

        self.bench = bench
        configuration = Configuration.of(techniques)
        write_trial_folder(folder, configuration.to_dict(), bench.workload, apply_source(configuration))
        self._apply = load_file(folder / "apply.py", "apply").apply
        self.workload = load_file(folder / "workload.py", "workload").Workload.read(folder)
        self.requests = self.workload.requests
        self.pipelines = self.workload.load(bench.device)
        self._newest: dict[str, Any] = {}

    def apply(self) -> None:
        """Apply the configuration."""
        self._apply(self.pipelines)

    def call(self, request: Any) -> float:
        """ms of a call. Other processes may hold the memory for a moment: then it is tried again."""
        from paretune.objectives.measuring.contract import checked_pictures
        from paretune.objectives.measuring.latency import time_call_ms
        from paretune.objectives.memory_shortage import is_out_of_memory

        for waited in range(WAITS_FOR_MEMORY):
            try:
                ms, made = time_call_ms(lambda: self.workload.run(self.pipelines, request), self.bench.device)
                self._newest[request.name] = checked_pictures(made, request).float().cpu()
                return ms
            except Exception as error:
                if not is_out_of_memory(error) or waited + 1 == WAITS_FOR_MEMORY:
                    raise
            self.release()
            time.sleep(2)
        raise AssertionError

    def release(self) -> None:
        """Leave to others what is not needed between calls."""
        from paretune.objectives.measuring.memory import release_unused

        release_unused(self.bench.device)

    def time(self, calls: int) -> list[float]:
        """ms of each call."""
        return [round(self.call(self.requests[0]), 3) for _ in range(calls)]

    def peak_gib(self) -> float:
        """Of one call: what torch reserved on a GPU, the resident set without one."""
        from paretune.objectives.measuring.memory import PeakMemory

        self.release()
        with PeakMemory(self.bench.device) as peak:
            self.call(self.requests[0])
        reserved = peak.summary.reserved_gib
        return round(peak.summary.peak_vram_gib if reserved is None else reserved, 3)

    def busy_ms(self) -> float | None:
        """In which the GPU worked during one more call; None without a GPU."""
        from paretune.objectives.measuring.gpu_busy import gpu_busy

        if self.bench.device != "cuda":
            return None
        return round(float(gpu_busy(lambda: self.call(self.requests[0]))["busy_ms"]), 3)

    def pictures(self) -> dict[str, Any]:
        """The newest of every request, by its name, on the CPU; none where they mean nothing."""
        if not self.bench.assessed:
            return {}
        for request in self.requests:
            if request.name not in self._newest:
                self.call(request)
        return dict(self._newest)


def keep_reference(bench: Bench) -> None:
    """The process of the unchanged pipeline: describes it, makes its pictures, times it until it is asked to end."""
    from paretune.agent.trial.judge import judge_made
    from paretune.objectives.judging import Judge
    from paretune.objectives.measuring import Made
    from paretune.search_space import describe_pipelines

    pipeline = Pipeline(bench, bench.folder / "unchanged", {})
    with bench.turn():
        first_ms = pipeline.call(pipeline.requests[0])
        peak_gib, busy_ms = pipeline.peak_gib(), pipeline.busy_ms()
        made = Made(pipeline.pictures())
        folder = bench.folder / "unchanged" / "pictures"
        folder.mkdir()
        judge_made(Judge(), folder, made, None, {})
        pipeline.release()
    facts = describe_pipelines(pipeline.pipelines, pipeline.requests)
    steps = sorted({one.steps for one in pipeline.requests})
    described = {name: {**one.to_dict(), "steps": steps} for name, one in facts.items()}
    bench.add(kind="unchanged", first_call_s=first_ms / 1e3, peak_gib=peak_gib, busy_ms=busy_ms, facts=described)
    (bench.folder / "ready").touch()
    while True:
        asked_to_end, started = (bench.folder / "end").exists(), time.monotonic()
        with bench.turn(first=True):
            pipeline.time(1)
            began = time.time()
            milliseconds = pipeline.time(2)
            bench.add(kind="reference", at=[began, time.time()], milliseconds=milliseconds)
            pipeline.release()
        if asked_to_end:
            return
        # On a CPU after each of the others, which takes its speed from the whole machine.
        every_s = 0.5 if bench.alone else max(REFERENCE_EVERY_S, 5 * (time.monotonic() - started))
        due = time.monotonic() + every_s
        while time.monotonic() < due and not (bench.folder / "end").exists():
            time.sleep(0.1)


def measure(bench: Bench, variant: Variant, folder: Path) -> dict[str, Any]:
    """The row of one variant, by its own process; where it has to be alone, nobody does anything else from its loading
    to its judging. Never raises.
    """
    with bench.turn() if bench.alone else contextlib.nullcontext():
        return _measured(bench, variant, folder)


def _measured(bench: Bench, variant: Variant, folder: Path) -> dict[str, Any]:
    from paretune.agent.trial.failures import classify, sentence, tail
    from paretune.objectives.measuring import Made
    from paretune.objectives.measuring.contract import InvalidOutputError
    from paretune.search_space import Trait, technique

    phase, known = "load", technique(variant.technique)
    records = Trait.CUDA_GRAPHS in known.traits_with(known.parameters(**variant.values))
    calls_in_turn = contextlib.nullcontext if bench.alone else bench.turn
    try:
        pipeline = Pipeline(bench, folder, {variant.technique: variant.values})
        with contextlib.ExitStack() as turn:
            if variant.cost == PLAIN:
                turn.enter_context(calls_in_turn())
            phase = "apply"
            began = time.perf_counter()
            pipeline.apply()
            applied_s = time.perf_counter() - began
            phase = "first_call"
            first_ms = pipeline.call(pipeline.requests[0])
            if variant.cost != PLAIN:
                pipeline.release()
                turn.enter_context(calls_in_turn())
            phase = "warm_up"
            began = time.perf_counter()
            peak_gib = pipeline.peak_gib()
            is_slow = time.perf_counter() - began > SLOW_S
            if records:
                pipeline.time(1)  # what is recorded in the second call is replayed from the third on
            reason = known.took_effect(pipeline.pipelines, **variant.values)
            if reason is not None:
                return {"outcome": "apply_error", "reason": f"it changed nothing: {reason}"}
            phase = "measure"
            began_at = time.time()
            milliseconds = pipeline.time(1 if is_slow else bench.calls)
            row = {
                "outcome": "complete",
                "at": [began_at, time.time()],
                "milliseconds": milliseconds,
                "applied_s": round(applied_s, 2),
                "first_call_s": round(first_ms / 1e3, 2),
                "peak_gib": peak_gib,
                "busy_ms": None if is_slow else pipeline.busy_ms(),
            }
            phase = "pictures"
            made = Made(pipeline.pictures())
            pipeline.release()
        return {**row, **(_judged(bench, folder, made) if bench.assessed else {})}
    except InvalidOutputError as error:
        return {"outcome": "invalid_output", "reason": f"{phase}: {error}"}
    except BaseException as error:
        return {"outcome": str(classify(error, phase)), "reason": sentence(error, phase), "log_tail": tail(error)}


def _judged(bench: Bench, folder: Path, made: Any) -> dict[str, Any]:
    from paretune.agent.trial.judge import judge_made
    from paretune.objectives.judging import Judge

    (folder / "pictures").mkdir()
    found = judge_made(Judge(), folder / "pictures", made, bench.folder / "unchanged" / "pictures", {})
    return {"verdict": str(found["verdict"]), "drift": found["drift"], "pictures": len(found["pictures"])}


def in_child(work: Any, log: Path, compiled: Path) -> int:
    """Fork, run work() there, and leave; the process id. It leads a group of its own."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
        for target in (1, 2):
            os.dup2(output, target)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(compiled)  # nobody finds what another one compiled
        work()
        status = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


@dataclass
class Running:
    """A variant's process."""

    variant: Variant
    pid: int
    began: float
    until: float


class Lanes:
    """Keeps processes going until everything is done or time is up."""

    def __init__(self, bench: Bench, waiting: list[Variant], workers: int, until: float) -> None:
        self.bench, self.workers, self.until = bench, workers, until
        self.waiting = waiting
        self.running: list[Running] = []
        self._again: set[str] = set()
        self._started = 0

    def run(self) -> None:
        """To the end. Whoever is not ready by then is written down as unfinished."""
        while (self.waiting or self.running) and time.monotonic() < self.until:
            while (variant := self._next()) is not None:
                self._start(variant)
            self._reap()
            time.sleep(0.05)
        for one in self.running:
            end(one.pid)
            seconds = round(time.monotonic() - one.began)
            self._add(one.variant, outcome=UNFINISHED, reason=f"not ready after {seconds} s, beside others")

    def _next(self) -> Variant | None:
        """Those that compile get their processes at once: they take longest. The rest is for the cheap ones."""
        if len(self.running) >= self.workers:
            return None
        plain = [variant for variant in self.waiting if variant.cost == PLAIN]
        dear = [variant for variant in self.waiting if variant.cost != PLAIN]
        compiling = sum(one.variant.cost != PLAIN for one in self.running)
        if dear and (not plain or compiling < self.workers - LEFT_FOR_PLAIN):
            return dear[0]
        return plain[0] if plain else None

    def _start(self, variant: Variant) -> None:
        self.waiting.remove(variant)
        self._started += 1
        folder = self.bench.folder / f"{self._started:04d}"
        log, compiled = folder.with_suffix(".log"), folder.with_suffix(".compiled")
        pid = in_child(lambda: self._add(variant, **measure(self.bench, variant, folder)), log, compiled)
        now = time.monotonic()
        limit = now + PLAIN_LIMIT_S if variant.cost == PLAIN else self.until
        self.running.append(Running(variant, pid, now, limit))

    def _add(self, variant: Variant, **row: Any) -> None:
        self.bench.add(kind="variant", technique=variant.technique, variant=variant.words, **row)

    def _reap(self) -> None:
        for one in list(self.running):
            pid, status = os.waitpid(one.pid, os.WNOHANG)
            if pid == 0 and time.monotonic() < one.until:
                continue
            self.running.remove(one)
            seconds = time.monotonic() - one.began
            if pid == 0:
                end(one.pid)
                if time.monotonic() < self.until:
                    self._add(one.variant, outcome="timeout", reason=f"not ready after {seconds:.0f} s")
                continue
            with contextlib.suppress(ProcessLookupError):
                os.killpg(one.pid, signal.SIGKILL)  # what it started and left behind
            code = os.waitstatus_to_exitcode(status)
            if code != 0:
                how = f"the process was ended by signal {-code}" if code < 0 else f"the process ended with {code}"
                self._add(one.variant, outcome="crash", reason=how)
            row = rows_by_variant(self.bench.results).get(one.variant.words, {})
            if row.get("outcome") == "oom" and one.variant.words not in self._again:
                self._again.add(one.variant.words)  # others held the memory, perhaps
                self.waiting.append(one.variant)
            print(f"{seconds:6.1f} s  {one.variant.words}: {row.get('outcome')}", file=sys.stderr, flush=True)


def end(pid: int) -> None:
    """Kill a process group and wait for its leader."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def rows_by_variant(results: Path) -> dict[str, dict[str, Any]]:
    """The newest row of each variant."""
    return {row["variant"]: row for row in read_rows(results) if row["kind"] == "variant"}


def read_rows(results: Path) -> list[dict[str, Any]]:
    """Every line; a last one that was cut short is left out."""
    rows = []
    for line in results.read_text().splitlines() if results.is_file() else []:
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def described_workload(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The content of workload.json."""
    from paretune.studies import read_study

    if options.workload == "tiny":
        (folder / "tiny.py").write_text(TINY)
        request = {"name": "cat", "pipeline": "main", "prompt": "a cat", "width_px": 64, "height_px": 64, "steps": 4}
        return {"schema": 1, "python": str(folder / "tiny.py"), "requests": [request]}
    settings = ["workload.pipelines.main.weights=random"] if options.workload == "sdxl" else []
    described = dict(read_study(options.workload, settings=settings).workload_description())
    requests = described["requests"][: 1 if options.workload == "sdxl" else options.pictures]
    steps = options.steps or (8 if options.workload == "sdxl" else requests[0]["steps"])
    return {**described, "requests": [{**request, "steps": steps} for request in requests]}


def bench_of(options: argparse.Namespace, folder: Path) -> Bench:
    """What this run is about."""
    from paretune.agent.trial.device import detect_device

    device = detect_device(options.device)
    return Bench(
        device=device,
        workload=described_workload(options, folder),
        assessed=options.workload == "quickstart",
        calls=options.calls,
        folder=folder,
        results=options.out / f"{options.workload}-{device}.jsonl",
        run=time.time(),
    )


def run(options: argparse.Namespace) -> None:
    """Measure what is not measured yet, until time is up."""
    until = time.monotonic() + options.budget_s
    cores = len(os.sched_getaffinity(0))
    compiling = max(1, options.workers - LEFT_FOR_PLAIN)
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(max(1, cores // compiling)))
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # this process must not start CUDA, so that it can fork

    from paretune.agent.trial.device import target_of
    from paretune.agent.trial.fork_server import _preload
    from paretune.objectives.fingerprint import Fingerprint
    from paretune.search_space import Configuration, PipelineFacts, impossible

    options.out.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="techniques-"))
    bench = bench_of(options, folder)
    if bench.alone:
        options.workers = 1
    rows = {} if options.again else rows_by_variant(bench.results)
    known = {words for words, row in rows.items() if row["outcome"] != UNFINISHED}
    waiting = [
        variant
        for variant in all_variants()
        if variant.words not in known and (not options.only or variant.technique in options.only)
    ]
    if not waiting:
        print("everything is measured already", file=sys.stderr)
        return
    fingerprint = _preload(bench.device, ["StableDiffusionXLPipeline"])["fingerprint"]
    requests = bench.workload["requests"]
    bench.add(
        kind="run", fingerprint=fingerprint, cores=cores, workers=options.workers, calls=options.calls,
        steps=requests[0]["steps"], side_px=requests[0]["width_px"], assessed=bench.assessed, note=options.note,
    )  # fmt: skip
    reference = in_child(lambda: keep_reference(bench), folder / "unchanged.log", folder / "unchanged.compiled")
    try:
        while not (folder / "ready").exists():
            if os.waitpid(reference, os.WNOHANG)[0] or time.monotonic() > until:
                sys.exit(f"the unchanged pipeline does not run:\n{(folder / 'unchanged.log').read_text()[-3000:]}")
            time.sleep(0.1)
        unchanged = [row for row in read_rows(bench.results) if row["kind"] == "unchanged"][-1]
        facts = {name: PipelineFacts.from_dict(one) for name, one in unchanged["facts"].items()}
        target = target_of(Fingerprint.from_dict(fingerprint))
        for variant in list(waiting):
            reason = impossible(Configuration.of({variant.technique: variant.values}), target, facts)
            if reason is not None:
                waiting.remove(variant)
                bench.add(
                    kind="variant", technique=variant.technique, variant=variant.words, outcome="refused", reason=reason
                )
        Lanes(bench, waiting, options.workers, until).run()
        (folder / "end").touch()  # once more, for the last ratios
        for _ in range(200):
            if os.waitpid(reference, os.WNOHANG)[0]:
                return
            time.sleep(0.1)
    finally:
        end(reference)


def main() -> None:
    """Measure, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=("sdxl", "quickstart", "tiny"), default="sdxl")
    parser.add_argument("--tiny", dest="workload", action="store_const", const="tiny", help="the tests' pipeline")
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu"))
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--only", action="append", help="a technique; by default all")
    parser.add_argument("--again", action="store_true", help="also what is measured already")
    parser.add_argument("--workers", type=int, default=7, help="processes at a time, beside that of the reference")
    parser.add_argument("--budget-s", type=float, default=520.0, help="all of it, imports included")
    parser.add_argument("--calls", type=int, default=3, help="timed calls")
    parser.add_argument("--steps", type=int, help="denoising steps; 8 for sdxl, the study's own for quickstart")
    parser.add_argument("--pictures", type=int, default=6, help="requests of the quickstart study that are judged")
    parser.add_argument("--note", default="", help="for the page: what is to be known of the machine")
    parser.add_argument("--write", type=Path, help="write the page about what lies in --out, and measure nothing")
    options = parser.parse_args()
    if options.write:
        from techniques_page import write_page

        write_page(options.out, options.write)
        return
    run(options)


if __name__ == "__main__":
    main()
