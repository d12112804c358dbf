"""Measure many configurations of one study, and keep the results as a table that searches can be tried on.

    python benchmarks/record_table.py --study quickstart --out quickstart-h100.jsonl --workers 10 --budget-s 540

Each configuration runs in a process of its own, forked from this one, which has imported everything and not touched the
GPU. They load, compile and make pictures side by side; what is timed is timed in turns, with no other process's calls
on the GPU. (A compiler's first call may run meanwhile: it is nearly all on the CPU, unless it tunes kernels.) So a
latency is rougher than a launch's; `n`, `least_ms` and `most_ms` say how rough.

The file is JSON lines: a head (study, machine, what the pipelines are, how it was measured), then a row per
configuration as soon as it is measured. With a file that is there already, it goes on. Everything that is compiled
shares one cache, as a hundred configurations could not be compiled anew in minutes: the first call of all but the first
of a kind takes what a warm cache leaves of it (benchmarks/search.py reckons with the first).

What is the best there is, a single process tells badly. So for the last --again-s seconds the fastest acceptable
configurations are measured in more processes, a row each; searches are shown the medians.

On the CPU each process has one thread, nobody waits for anybody, and what a search is shown is processor time, of a
call and of a trial, which other programs hardly change; a call's wall time stands beside it.
"""

import argparse
import dataclasses
import fcntl
import itertools
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from paretune.agent.trial import Job, TrialResult, detect_device, target_of
from paretune.agent.trial.folder import LOG, PICTURES, write_trial_folder
from paretune.agent.trial.fork_server import _gpu_described_by_nvml, _preload
from paretune.agent.trial.result import announced, read_result
from paretune.objectives.fingerprint import Fingerprint
from paretune.objectives.measuring import Plan
from paretune.search_space import (
    Configuration,
    PipelineFacts,
    SameEffect,
    SearchSpace,
    Target,
    Trait,
    apply_source,
    fitting_recipes,
    impossible,
    technique,
)
from paretune.studies import Outcome, Study, picture_names, read_study

SCHEMA_VERSION = 2
ALONE = ("measure",)
SHARED = ("first_call", "warm_up", "memory", "pictures")
"""Phases in which a process calls its pipelines."""
COMPILING_SHARE = 0.4
"""Of the workers, as long as there is something else to do for the others."""
ALONE_IN = 8
"""A single worker takes one that compiles after so many."""
LEAST_LEFT_S = 8.0
"""With less time left, nothing is started."""
PICTURES_EACH = 6
NEAR_LOSSLESS = 2.0
"""The drift of acceptable pictures."""
Chosen = dict[str, dict[str, Any]]


# What is measured


def configurations(space: SearchSpace, target: Target, pipelines: dict[str, PipelineFacts]) -> list[Configuration]:
    """What a search meets, the most telling first: recipes; each technique alone, with every value of every parameter;
    then in turns: what lies around the recipes, each step cache with any parameters in a recipe, combinations of three
    to six, and pairs.
    """
    recipes = [configuration for _, configuration in fitting_recipes(space, target, pipelines)]
    usual = {name: _usual(space, name, recipes) for name in space.techniques}
    singles = [{name: values} for name in space.techniques for values in _around(space, name, usual[name])]
    pairs = [{a: usual[a], b: usual[b]} for a, b in itertools.combinations(space.techniques, 2)]
    order = random.Random(0)
    order.shuffle(pairs)
    neighbours = [one for recipe in recipes for one in _neighbours(space, recipe, usual)]
    caches = [one for recipe in recipes for one in _with_step_caches(space, recipe)]
    order.shuffle(neighbours)
    order.shuffle(caches)
    found: Iterable[Chosen] = [
        *({step.technique: step.values() for step in recipe.steps} for recipe in recipes),
        *singles,
        *_in_turns(neighbours, caches[::2], [_anything(space, usual, order) for _ in range(4000)], caches[1::2], pairs),
    ]
    known: dict[Any, Configuration] = {}
    same = SameEffect(pipelines)
    for chosen in found:
        configuration = Configuration.of(chosen)
        if configuration.steps and impossible(configuration, target, pipelines) is None:
            known.setdefault(same.of(configuration), configuration)
    return list(known.values())


def _usual(space: SearchSpace, name: str, recipes: list[Configuration]) -> dict[str, Any]:
    """The parameters with which a technique is combined: a recipe's, else its own defaults."""
    for recipe in recipes:
        if (values := recipe.get(name)) is not None:
            return values
    defaults = {key: field.default for key, field in technique(name).parameters.model_fields.items()}
    choices = space.techniques[name]
    return {key: defaults[key] if defaults.get(key) in values else values[0] for key, values in choices.items()}


def _around(space: SearchSpace, name: str, usual: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Parameters that differ in one place at most."""
    yield usual
    for key, values in space.techniques[name].items():
        yield from ({**usual, key: value} for value in values if value != usual[key])


def _neighbours(space: SearchSpace, recipe: Configuration, usual: Chosen) -> Iterator[Chosen]:
    """A recipe with one technique less, one more, or one with another parameter."""
    chosen = {step.technique: step.values() for step in recipe.steps}
    for name in space.techniques:
        if name not in chosen:
            yield {**chosen, name: usual[name]}
            continue
        yield {other: values for other, values in chosen.items() if other != name}
        yield from ({**chosen, name: values} for values in _around(space, name, chosen[name]))


def _with_step_caches(space: SearchSpace, recipe: Configuration) -> Iterator[Chosen]:
    """A recipe with each step cache, with all of its parameters, in the place of its own if it has one."""
    known = {name: technique(name) for name in space.techniques}
    cache = {
        name: parameters
        for name, choices in space.techniques.items()
        for parameters in [next(known[name].parameters.combinations(choices))]
        if Trait.CACHES_STEPS in known[name].traits_with(parameters)
    }
    others = {step.technique: step.values() for step in recipe.steps if step.technique not in cache}
    for name in cache:
        for parameters in known[name].parameters.combinations(space.techniques[name]):
            yield {**others, name: parameters.model_dump()}


def _anything(space: SearchSpace, usual: Chosen, order: random.Random) -> Chosen:
    chosen: Chosen = {}
    for name in order.sample(list(space.techniques), min(order.randint(3, 6), len(space.techniques))):
        chosen[name] = order.choice(list(_around(space, name, usual[name])))
    return chosen


def _in_turns(*lists: list[Chosen]) -> Iterator[Chosen]:
    for row in itertools.zip_longest(*lists):
        yield from (one for one in row if one is not None)


def compiles(configuration: Configuration) -> bool:
    """Whether its first call runs a compiler."""
    steps = [(technique(step.technique), step.parameters) for step in configuration.steps]
    return any(Trait.COMPILES in known.traits_with(parameters) for known, parameters in steps)


def tunes(configuration: Configuration) -> bool:
    """Whether its compiler tries kernels on the device, which takes minutes."""
    return any("autotune" in str(step.values().get("mode", "")) for step in configuration.steps) or any(
        step.values().get("recipe") == "coordinate_descent" for step in configuration.steps
    )


# How it is measured


class Gate:
    """Lets any number of processes call their pipelines, or one, alone, time its calls. Who waits to be alone goes
    before those who come later. A process that ends leaves it.
    """

    def __init__(self, folder: Path) -> None:
        """To be made in each process: locks belong to open files."""
        self._door, self._room = ((folder / name).open("w") for name in ("door", "room"))

    def enter(self, *, alone: bool) -> None:
        """Wait until it is one's turn."""
        self.leave()
        fcntl.flock(self._door, fcntl.LOCK_EX)
        fcntl.flock(self._room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        if not alone:
            fcntl.flock(self._door, fcntl.LOCK_UN)

    def leave(self) -> None:
        """Let others in."""
        fcntl.flock(self._room, fcntl.LOCK_UN)
        fcntl.flock(self._door, fcntl.LOCK_UN)


@dataclass(frozen=True)
class Recorder:
    """What all processes have in common."""

    study: Study
    device: str
    scratch: Path
    plan: Plan
    versions: dict[str, str]

    @property
    def reference(self) -> Path:
        """The folder of the unchanged pipelines."""
        return self.scratch / "reference"

    def folder(self, configuration: Configuration) -> Path:
        """Where a configuration is measured."""
        return self.scratch / configuration.key if configuration.steps else self.reference

    def start(self, configuration: Configuration) -> int:
        """Fork a process that measures it; returns its id, which is its group's too."""
        sys.stdout.flush()
        sys.stderr.flush()
        if (pid := os.fork()) != 0:
            return pid
        try:
            os.setsid()
            self._measure(configuration)
        finally:
            os._exit(0)

    def _measure(self, configuration: Configuration) -> None:
        """In its own process."""
        from paretune.agent.trial import process

        folder, workload = self.folder(configuration), self.study.workload_description()
        apply_py = apply_source(configuration, self.versions)
        write_trial_folder(folder, configuration.to_dict(), workload, apply_py)
        log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(self.scratch / "compiled")
        gate, announce = Gate(self.scratch), process._announce
        apart = ("first_call",) if compiles(configuration) else ()
        cpu_s, since = {"": 0.0}, [sum(os.times()[:4])]

        def begin(where: Path, phase: str) -> None:
            # A phase's seconds are counted from here on: waiting is not in them.
            gate.leave()
            since.append(sum(os.times()[:4]))
            cpu_s[next(reversed(cpu_s))] += since[-1] - since[-2]
            cpu_s[phase] = 0.0
            if not phase:
                return
            if self.device != "cpu" and (phase in ALONE or (phase in SHARED and phase not in apart)):
                gate.enter(alone=phase in ALONE)
            announce(where, phase)

        process._announce = begin
        process.run_trial(
            Job(
                folder=str(folder),
                device=self.device,
                configuration=configuration.to_dict(),
                apply_py=apply_py,
                workload=workload,
                plan=dataclasses.asdict(self.plan),
                reference_pictures=str(self.reference / PICTURES) if configuration.steps else None,
                quality_assessed=self.study.workload.quality_assessed,
                technique_files=self.study.space.files,
                import_s=0.0,
            )
        )
        begin(folder, "")
        (folder / "cpu_s.json").write_text(json.dumps({phase: s for phase, s in cpu_s.items() if phase}))

    def row(self, configuration: Configuration, result: TrialResult) -> dict[str, Any]:
        """What the table keeps."""
        phases_s = result.phases_s
        with suppress(OSError, ValueError):
            # Processor time, of compilers too: other programs hardly change it.
            if self.device == "cpu":
                phases_s = json.loads((self.folder(configuration) / "cpu_s.json").read_text())
        row: dict[str, Any] = {
            "configuration": configuration.to_dict()["techniques"],
            "outcome": str(result.outcome),
            "seconds": round(sum(phases_s.values()), 2),
            "phases_s": {name: round(seconds, 2) for name, seconds in phases_s.items() if seconds > 0.005},
        }
        if result.outcome is not Outcome.COMPLETE:
            return row | {"reason": result.reason.replace(str(self.scratch), "...")[:160]}
        found = result.measurements
        (shape, *_) = found["latency"]
        calls = sum(one["n"] for one in found["latency"])
        wall_ms = found["latency_ms"]
        latency_ms = 1000 * phases_s["measure"] / calls if self.device == "cpu" else wall_ms
        # Beside other processes, only the allocator tells what is this one's.
        allocator_gib = found["memory"]["reserved_gib"] if "memory" in found else None
        peak_gib = found.get("peak_vram_gib", found["setup_peak_vram_gib"])
        return row | {
            "latency_ms": round(latency_ms, 2),
            "wall_ms": round(wall_ms, 2),
            "n": shape["n"],
            "least_ms": round(shape["min_ms"], 2),
            "most_ms": round(shape["max_ms"], 2),
            "peak_vram_gib": round(peak_gib if allocator_gib is None else allocator_gib, 4),
            "drift": found["drift"] and round(found["drift"], 4),
            "verdict": str(found["quality"]["verdict"]),
            "pictures": len(found["quality"]["pictures"]),
        }


def measure_all(
    recorder: Recorder, wanted: list[Configuration], out: IO[str], workers: int, until: float, trial_s: float
) -> int:
    """Measure side by side until the time is spent; a row each. Returns how many."""
    queues = {True: [c for c in wanted if compiles(c)], False: [c for c in wanted if not compiles(c)]}
    queues[True].sort(key=tunes)
    running: dict[int, tuple[Configuration, float]] = {}
    made = 0
    while time.monotonic() < until:
        while len(running) < workers and time.monotonic() < until - LEAST_LEFT_S:
            compiling = sum(compiles(one) for one, _ in running.values())
            turn = compiling < round(COMPILING_SHARE * workers) if workers > 1 else made % ALONE_IN == ALONE_IN - 1
            queue = queues[turn] or queues[not turn]
            if not queue:
                break
            configuration = queue.pop(0)
            running[recorder.start(configuration)] = configuration, time.monotonic()
        if not running:
            break
        for pid, (configuration, since) in list(running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            late = time.monotonic() - since > trial_s
            if not ended and not late:
                continue
            _kill(pid)
            if ended:
                result = read_result(recorder.folder(configuration), os.waitstatus_to_exitcode(status))
            else:
                os.waitpid(pid, 0)
                begun = announced(recorder.folder(configuration))
                reason = f"{begun[-1].phase if begun else 'start'}: not done after {trial_s:g} s"
                result = TrialResult(outcome=Outcome.TIMEOUT, reason=reason, phases_s={"all": trial_s})
            del running[pid]
            write(out, recorder.row(configuration, result))
            made += 1
            left_s, latency_ms = until - time.monotonic(), result.measurements.get("latency_ms")
            said = f"{latency_ms:.0f} ms" if latency_ms else f"{result.outcome}: {result.reason[:100]}"
            print(f"{made:4} {left_s:4.0f} s left  {configuration}: {said}", file=sys.stderr, flush=True)
            if configuration.steps:
                shutil.rmtree(recorder.folder(configuration), ignore_errors=True)
        time.sleep(0.02)
    for pid in running:
        _kill(pid)
        os.waitpid(pid, 0)
    return made


def configuration_of(row: dict[str, Any]) -> Configuration:
    """What a row of a table was measured of."""
    return Configuration.of([next(iter(step.items())) for step in row["configuration"]])


def fastest_with_fewer(lines: Iterable[dict[str, Any]], most: int, processes: int) -> list[Configuration]:
    """Of the fastest acceptable configurations of a table, so many, those that were measured in too few processes."""
    found: dict[Configuration, list[dict[str, Any]]] = {}
    for line in lines:
        if line.get("configuration") and line["outcome"] == Outcome.COMPLETE and (line["drift"] or 0) <= NEAR_LOSSLESS:
            found.setdefault(configuration_of(line), []).append(line)
    middle = {one: statistics.median(line["latency_ms"] for line in group) for one, group in found.items()}
    return [one for one in sorted(middle, key=lambda one: middle[one])[:most] if len(found[one]) < processes]


def _kill(pid: int) -> None:
    """The process and what it has started."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def write(out: IO[str], line: dict[str, Any]) -> None:
    """At once, as the machine may be gone any moment."""
    out.write(json.dumps(line, separators=(",", ":")) + "\n")
    out.flush()


def import_compiler(compute_capability: str | None) -> None:
    """Import what compiles, as each process would have to for seconds; unless that starts CUDA here, or a thread."""
    import torch

    def load() -> None:
        with _gpu_described_by_nvml(compute_capability):
            import torch._dynamo
            import torch._inductor.compile_fx  # noqa: F401

    if (pid := os.fork()) == 0:
        code = 1
        with suppress(BaseException):
            load()
            code = int(torch.cuda.is_initialized() or len(os.listdir("/proc/self/task")) > 1)
        os._exit(code)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0:
        load()
    else:
        print("the compiler is imported by each process", file=sys.stderr)


def main() -> None:
    """The unchanged pipelines, then all others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="quickstart", help="name or file; its requests are what is timed")
    parser.add_argument("--own-space", action="store_true", help="the study's techniques, not the device's default")
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu"))
    parser.add_argument("--out", type=Path, required=True, help="JSON lines; goes on where it is there")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--budget-s", type=float, default=540, help="everything in all, the imports included")
    parser.add_argument("--trial-s", type=float, default=200, help="what takes longer is ended, and is a row too")
    parser.add_argument("--most", type=int, default=1000, help="rows in all")
    parser.add_argument("--most-s", type=float, default=1.0, help="timed seconds each, once three calls are timed")
    parser.add_argument("--again", type=int, default=0, help="so many of the fastest get more processes, in the end")
    parser.add_argument("--processes", type=int, default=3, help="that each of them gets in all")
    parser.add_argument("--again-s", type=float, default=150.0, help="of the budget, for them")
    parser.add_argument("--again-workers", type=int, help="fewer than --workers, so that they disturb each other less")
    parser.add_argument("--note", default="", help="for the head: what is to be known of the machine")
    options = parser.parse_args()
    until = time.monotonic() + options.budget_s
    # Of this process and its forks, before torch is imported. Compiling in one thread each needs no helpers that would
    # import torch once more, and there are enough processes for all cores.
    os.environ |= {"TORCHINDUCTOR_COMPILE_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
    study = read_study(options.study, [] if options.own_space else ["space.techniques=null"])
    device = detect_device(options.device)
    classes = sorted({spec["class"] for spec in study.workload_description().get("pipelines", {}).values()})
    fingerprint = Fingerprint.from_dict(_preload(device, classes)["fingerprint"])
    import_compiler(fingerprint.compute_capability)
    lines = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.is_file() else []
    rows = [line for line in lines if "configuration" in line]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    plan = Plan(
        calls=3,
        most_calls=9,
        most_seconds=options.most_s,
        warm_up_calls=1 if device == "cpu" else 2,
        memory=device != "cpu",  # there, the peak of the first call is as good
        stages=False,
        pictures=picture_names(study, PICTURES_EACH),
    )
    with tempfile.TemporaryDirectory(prefix="paretune-table-") as scratch, options.out.open("a") as out:
        versions = {name: version for name, version in fingerprint.packages.items() if version is not None}
        recorder = Recorder(study, device, Path(scratch), plan, versions)
        pid = recorder.start(Configuration())
        result = read_result(recorder.reference, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        _kill(pid)
        if result.outcome is not Outcome.COMPLETE:
            sys.exit(f"the unchanged pipelines could not be measured: {result.reason}")
        target = target_of(fingerprint)
        pipelines = {name: PipelineFacts.from_dict(facts) for name, facts in result.pipelines.items()}
        space, _ = study.search_space_on(target, pipelines)
        row = recorder.row(Configuration(), result)
        if not rows:
            head = {
                "schema": SCHEMA_VERSION,
                "study": study.name,
                "measured": f"{options.workers} processes side by side"
                + (", processor time per call" if device == "cpu" else ", timed in turns"),
                "note": options.note,
                "fingerprint": fingerprint.to_dict(),
                "target": {**dataclasses.asdict(target), "packages": sorted(target.packages)},
                "pipelines": dict(result.pipelines),
                "space": space.to_dict(),
            }
            write(out, head)
            write(out, row)
        else:  # whether the machine is as it was
            write(out, {"reference_again": row})
        known = {json.dumps(one["configuration"], sort_keys=True) for one in rows}
        wanted = [
            one
            for one in configurations(space, target, pipelines)
            if json.dumps(one.to_dict()["techniques"], sort_keys=True) not in known
        ][: max(0, options.most - len(rows))]
        print(f"{len(wanted)} to measure, reference {row['latency_ms']:.0f} ms", file=sys.stderr, flush=True)
        first = until - (options.again_s if options.again else 0.0)
        made = measure_all(recorder, wanted, out, options.workers, first, options.trial_s)
        for _ in range(1, options.processes if options.again else 1):
            lines = [json.loads(line) for line in options.out.read_text().splitlines()]
            few = fastest_with_fewer(lines, options.again, options.processes)
            made += measure_all(recorder, few, out, options.again_workers or options.workers, until, options.trial_s)
    print(f"{made} measured now; {options.out} has {max(len(rows), 1) + made} rows")


if __name__ == "__main__":
    main()
