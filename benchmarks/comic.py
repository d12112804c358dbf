"""The comic workflow, whole: what torch.compile makes of it, and what paretune does, in blocks that take turns.

    python benchmarks/comic.py --work build/comic --out docs/results/comic-h100.md               # a CUDA GPU, full size
    python benchmarks/comic.py --work build/comic --out docs/results/comic-h100.md               # again: goes on
    python benchmarks/comic.py --work build/small --size small --device cpu --out comic-cpu.md   # to try it on a CPU

Each call does what is left to do and ends within --budget-s; what was compiled and measured stays in --work. In order:

1. prepare: paretune's configurations build their artefacts, as `paretune export` does, each in --processes processes;
   meanwhile torch.compile's variants compile, one after the other or --together, in the processes that will be timed.
2. time: a process of each variant stays, and all serve the study's trace in turns, block after block. Counted are
   recompilations and recorded CUDA graphs, and the bytes of U-Net weights; after the first block, the stages of one
   call of each request.
   How such a process began, with empty caches, is how a new worker does: until the first picture, and until every
   request was served. What does not compile begins when all that travels is built, one process after the other.
3. workers: more of those that start in seconds, one at a time.

Rows are appended to rows.jsonl; the page is written anew at the end of each call, of all variants that have rows. --do
and --only leave out steps and variants: at full size some 9 GB of weights and a few more for CUDA graphs belong to each
variant that is timed, beside the 30 GB that four pictures take whose VAE is not sliced, so that 80 GB are enough for
three of them at a time. With random weights times and memory are real, and pictures are not: how far they differ is
arithmetic, and says nothing of quality.
"""

import argparse
import contextlib
import gc
import hashlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from comic_page import good, page

COMPILED: dict[str, dict[str, Any]] = {
    "torch_compile": {"region": "whole", "mode": "default"},
    "torch_compile_vae": {"parts": "decoder", "mode": "default"},
    "torch_compile_modules": {"mode": "default"},
}
AROUND: dict[str, dict[str, Any]] = {
    "ip_adapter_swap": {"how": "in_place"},
    "channels_last": {},
    "vae_slicing": {},
}
GRAPHS: dict[str, dict[str, Any]] = {"cuda_graphs": {"modules": "denoiser_vae_text"}, "cuda_graphs_modules": {}}
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "reference": {},
    "torch.compile": {"torch_compile": {"region": "whole", "mode": "default"}},
    "torch.compile at its best": {
        "channels_last": {},
        "torch_compile": {"region": "whole", "mode": "reduce-overhead"},
    },
    "lossless": {**AROUND, "vae_dtype": {"dtype": "float32"}, "cudnn_benchmark": {}, **COMPILED, **GRAPHS},
    "step cache": {
        **AROUND,
        "vae_dtype": {"dtype": "bfloat16"},
        "cudnn_benchmark": {},
        "deepcache": {"interval": 3, "branch": 0, "full_percent": 0},
        **COMPILED,
        **GRAPHS,
    },
}
"""What is measured unless --variant NAME=configuration.yaml says otherwise, such as what a study has found."""
ON_CPU: dict[str, dict[str, dict[str, Any]]] = {
    "reference": {},
    "torch.compile": VARIANTS["torch.compile"],
    "lossless": {**AROUND, **COMPILED},
    "step cache": {
        "ip_adapter_swap": {"how": "stash"},
        "deepcache": {"interval": 2, "branch": 0, "full_percent": 50},
    },
}
STEPS = ("prepare", "time", "workers")
CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TORCH_EXTENSIONS_DIR", "CUDA_CACHE_PATH")
BUILDING = ("torch_compile", "torch_compile_vae", "torch_compile_modules", "torch_compile_text_encoders")


# --- in the measured process


def served(mode: str, folder: Path, device: str) -> None:
    """A process of one variant: lines of JSON on standard output, commands on standard input."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not come between the lines

    def say(**row: Any) -> None:
        print(json.dumps(row), file=out, flush=True)

    started = time.perf_counter()
    gc.disable()  # as a worker should: see the bundle's README
    import diffusers
    import torch

    gc.enable()
    import_s = time.perf_counter() - started
    from paretune.objectives.measuring.graphs_made import Compilations
    from paretune.objectives.measuring.latency import synchronize, time_call_ms
    from paretune.objectives.measuring.loading import load_file, only_sources
    from paretune.objectives.measuring.stages import StageTimer
    from paretune.objectives.measuring.trace import Trace
    from paretune.objectives.measuring.visits import Visits

    started = time.perf_counter()
    workload = load_file(folder / "workload.py", "workload").Workload.read(folder)
    only_sources(workload.python.parent)
    pipelines = workload.load(device)
    synchronize(device)
    weights_s = time.perf_counter() - started
    trace = Trace.of(workload, [[request] for request in workload.requests], lambda request: request.adapters)
    pictures: dict[str, Any] = {}

    def serve(request: Any) -> float:
        milliseconds, made = time_call_ms(lambda: workload.run(pipelines, request), device)
        if request.name not in pictures:
            pictures[request.name] = made.float().cpu()
        return milliseconds

    say(ready="loaded")
    sys.stdin.readline()
    how = {"artefacts": folder / "artefacts", "strict": True} if (folder / "built").exists() else {}
    applied = load_file(folder / "apply.py", "apply")
    with Compilations() as compilations:
        started = time.perf_counter()
        applied.apply(pipelines, **how)
        synchronize(device)
        load_s = time.perf_counter() - started
        first_ms = serve(trace.order[0])
        until_first_s = time.perf_counter() - started
        for request in trace.order[1:]:
            serve(request)
        until_all_s = time.perf_counter() - started
        worker = {
            **{"import_s": import_s, "weights_s": weights_s, "load_s": load_s, "first_image_s": first_ms / 1000},
            **{"until_first_image_s": until_first_s, "until_all_s": until_all_s},
            "counters": getattr(applied, "counters", lambda pipelines: {})(pipelines),
            "gpu": torch.cuda.get_device_name() if device == "cuda" else "cpu",
            "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
        }
        if mode == "worker":
            say(kind="worker", **worker)
            return
        configuration = (folder / "configuration.yaml").read_text()
        # A CUDA graph is recorded in the second call of its kind.
        for request in trace.order if "cuda_graphs" in configuration or "reduce-overhead" in configuration else ():
            serve(request)
        torch.save(pictures, folder / "pictures.pt")
        if device == "cuda":
            torch.cuda.empty_cache()  # the other processes need it
        say(kind="ready", **worker)
        for line in sys.stdin:
            command = line.strip()
            if command == "trace":
                before = compilations.made()
                if device == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                serve(trace.order[-1])  # the first place comes after the last
                calls = [
                    {"request": request.name, "swap": place in trace.swaps, "extra": place in trace.extra}
                    | {"ms": serve(request)}
                    for place, request in enumerate(trace.order)
                ]
                made = compilations.made().since(before)
                say(
                    kind="trace",
                    calls=calls,
                    recompiles=made.graphs,
                    recaptures=made.captures,
                    peak_gib=torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None,
                    reserved_gib=torch.cuda.max_memory_reserved() / 2**30 if device == "cuda" else None,
                    **_unet_weights(pipelines),
                )
            elif command == "stages":
                found = {}
                for request in workload.requests:
                    with StageTimer(pipelines, device) as timer, Visits(pipelines, around=timer.entry):
                        serve(request)
                    found[request.name] = timer.summary()
                say(kind="stages", stages=found)
            if device == "cuda":
                torch.cuda.empty_cache()


def _unet_weights(pipelines: Any) -> dict[str, int]:
    """Bytes of U-Net weights that all entries together hold, each memory once, and those of one U-Net."""
    from paretune.objectives.measuring.visits import denoisers_of

    unets = [unet for entry in pipelines.values() for unet in denoisers_of(entry)]
    weights = [weight for unet in unets for weight in unet.parameters()]
    held = {weight.untyped_storage().data_ptr(): weight.untyped_storage().nbytes() for weight in weights}
    one = {weight.untyped_storage().data_ptr(): weight.nbytes for weight in unets[0].parameters()}
    return {"unets": len(unets), "unet_bytes_held": sum(held.values()), "unet_bytes_of_one": sum(one.values())}


# --- in the process that starts them


class Process:
    """A process of a variant."""

    def __init__(
        self,
        variant: str,
        mode: str,
        options: argparse.Namespace,
        *,
        beside: int = 1,
        threads: int | None = None,
        cores: Sequence[int] = (),
    ) -> None:
        """mode: "time", "worker" or "build". beside: how many compile at once. threads: in which each of its processes
        may compile; by default one for each core. cores: on which it runs; by default on all.
        """
        self.variant, self.mode, self.beside = variant, mode, beside
        self.folder = folder_of(variant, options)
        self.scratch: Any = None
        caches = self.folder.with_name(f"{self.folder.name}.{mode}.caches")
        if mode == "worker":
            self.scratch = tempfile.TemporaryDirectory(prefix="comic-", ignore_cleanup_errors=True)
            caches = Path(self.scratch.name)
        self.fresh = mode == "worker" or not caches.exists()
        environment = {**os.environ, **{name: str(caches / name.lower()) for name in CACHES}}
        environment["TORCHINDUCTOR_COMPILE_THREADS"] = str(max(1, threads or len(os.sched_getaffinity(0))))
        self.log = self.folder.with_name(f"{self.folder.name}.{mode}.log").open("a")
        command = [sys.executable, __file__, "--measure", mode, str(self.folder), "--device", options.device]
        if mode == "build":
            command = [sys.executable, str(self.folder / "run.py"), "--build", "standalone_compile"]
            command += ["--device", options.device, "--artefacts", str(self.folder / "artefacts")]
            command += ["--processes", str(options.processes)]
            if options.build_gpus:
                number = [one for one in options.variants if travels(one, options)].index(variant)
                environment["CUDA_VISIBLE_DEVICES"] = options.build_gpus[number % len(options.build_gpus)]
        if cores:
            command = ["taskset", "--cpu-list", ",".join(map(str, cores)), *command]
        self.process: Any = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, bufsize=0, env=environment,
            start_new_session=True,
        )  # fmt: skip
        self.began = time.perf_counter()
        self._ready: dict[str, Any] | None = None

    def tell(self, command: str) -> None:
        """A line."""
        self.process.stdin.write(f"{command}\n".encode())

    def answer(self, until: float) -> dict[str, Any] | None:
        """Its next line; None when time is up or it has ended."""
        ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, until - time.perf_counter()))
        line = self.process.stdout.readline() if ready else ""
        return json.loads(line) if line else None

    def ready(self, until: float) -> dict[str, Any] | None:
        """What it says once it has served everything; None when time is up or it has ended."""
        if self._ready is None and self.answer(until) is not None:
            self._ready = self.answer(until)
        return self._ready

    def built(self, until: float) -> dict[str, Any] | None:
        """How long a build took; None when time is up or it failed. Its folder is then as a bundle's."""
        from paretune.agent.bundle import entries_of

        try:
            if self.process.wait(max(0.0, until - time.perf_counter())) != 0:
                return None
        except subprocess.TimeoutExpired:
            return None
        seconds = time.perf_counter() - self.began
        (self.folder / "manifest.json").write_text(json.dumps({"files": entries_of(self.folder)}))
        (self.folder / "built").touch()
        return {"build_s": seconds}

    def why(self) -> str:
        """Why there was no answer."""
        return f"it ended: {self.log.name}" if self.process.poll() is not None else "not ready in time"

    def end(self) -> None:
        """Kill it with its compile workers."""
        with contextlib.suppress(ProcessLookupError):  # nothing of it is left
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()
        if self.scratch is not None:
            self.scratch.cleanup()


def folder_of(variant: str, options: argparse.Namespace) -> Path:
    """The trial's folder of a variant."""
    return Path(options.work).resolve() / variant.replace(" ", "-")


def write_folders(options: argparse.Namespace) -> dict[str, str]:
    """The folder of each variant, as trials have it; a variant that has become another one is prepared anew. Returns
    what each of them is, as a hash.
    """
    from paretune.agent.bundle import trust_file
    from paretune.agent.trial import write_trial_folder
    from paretune.search_space import Configuration, apply_source
    from paretune.studies import read_study

    settings = [f"workload.size={options.size}", f"device={options.device}", *options.set]
    workload = read_study("comic", settings).workload_description()
    keys = {}
    for name, configuration in options.variants.items():
        folder, applied = folder_of(name, options), Configuration.of(configuration)
        key = folder.with_name(f"{folder.name}.key")
        now = json.dumps([applied.key, workload], sort_keys=True, default=str)
        keys[name] = hashlib.sha256(now.encode()).hexdigest()[:16]
        if not key.exists() or key.read_text() != keys[name]:
            shutil.rmtree(folder, ignore_errors=True)
            for caches in folder.parent.glob(f"{folder.name}.*.caches"):
                shutil.rmtree(caches, ignore_errors=True)
            folder.mkdir(parents=True, exist_ok=True)
            write_trial_folder(folder, applied.to_dict(), workload, apply_source(applied))
            shutil.copyfile(trust_file(), folder / "trust.py")
            key.write_text(keys[name])
    return keys


def compiles(name: str, options: argparse.Namespace) -> bool:
    """Whether a variant compiles in each of its processes."""
    techniques = options.variants[name]
    return any(one in techniques for one in BUILDING) and ("torch.compile" in name or options.no_artefacts)


def travels(name: str, options: argparse.Namespace) -> bool:
    """Whether a variant's compiled code travels in its bundle."""
    return any(one in options.variants[name] for one in BUILDING) and not compiles(name, options)


def is_unbuilt(name: str, options: argparse.Namespace) -> bool:
    """Whether that code was not built yet."""
    return travels(name, options) and not (folder_of(name, options) / "built").exists()


def prepare(
    options: argparse.Namespace, timed: dict[str, Process], until: float, *, timing: bool
) -> Iterator[dict[str, Any]]:
    """Build what travels in a bundle; meanwhile what does not compiles, in the processes that are timed afterwards, if
    there is `timing`.
    """
    building = [name for name in options.variants if is_unbuilt(name, options)]
    compiling = [name for name in options.variants if timing and compiles(name, options)]
    at_once = len(compiling) if options.together else min(1, len(compiling))
    beside = len(building) * options.processes + at_once
    cores = sorted(os.sched_getaffinity(0))
    # torch.compile, which others are compared with, gets a quarter of the cores, or a half for two; builds the others.
    spared = len(cores) // 4 * min(2, at_once) if building and len(cores) >= 8 else 0
    threads = spared // at_once if spared else len(cores) // max(1, beside)

    def compile_each(names: Sequence[str]) -> None:
        for name in names:
            if not interrupted.is_set():
                timed[name] = Process(name, "time", options, beside=beside, threads=threads)
                timed[name].tell("go")
                timed[name].ready(until)

    interrupted = threading.Event()
    # Until it has served everything, each takes the memory of four pictures that are not sliced.
    turns = [[name] for name in compiling] if options.together else [compiling]
    compilers = [threading.Thread(target=compile_each, args=(names,)) for names in turns]
    for thread in compilers:
        thread.start()
    build_threads = (len(cores) - spared) // max(1, len(building) * options.processes + (0 if spared else at_once))
    own = cores[spared:] if spared else ()
    builds = [Process(name, "build", options, beside=beside, threads=build_threads, cores=own) for name in building]
    try:
        while builds:
            found = builds[0].built(until)
            said = found or {"failed": builds[0].why()}
            yield {"step": "build", "variant": builds[0].variant, "beside": beside, **said}
            builds.pop(0).end()
        for name in options.variants:
            if timing and name not in compiling:
                alive = sum(thread.is_alive() for thread in compilers)
                yield from begin([name], options, timed, until, beside=1 + alive)
        for thread in compilers:
            thread.join()
    finally:
        interrupted.set()
        for one in builds:
            one.end()
    yield from begin(compiling, options, timed, until)


def begin(
    names: Sequence[str], options: argparse.Namespace, timed: dict[str, Process], until: float, beside: int = 1
) -> Iterator[dict[str, Any]]:
    """One after the other, each until it has served everything: how a new worker begins."""
    for name in names:
        if is_unbuilt(name, options):
            yield {"step": "warm", "variant": name, "failed": "its compiled code could not be built"}
            continue
        if name not in timed:
            threads = len(os.sched_getaffinity(0)) // beside
            timed[name] = Process(name, "time", options, beside=beside, threads=threads)
            timed[name].tell("go")
        said = timed[name].ready(until) or {"failed": timed[name].why()}
        yield {"step": "warm", "variant": name, "beside": timed[name].beside, "fresh": timed[name].fresh, **said}


def serve_in_turns(
    options: argparse.Namespace, timed: dict[str, Process], blocks: int, until: float
) -> Iterator[dict[str, Any]]:
    """So many blocks more, each variant in turn; the stages after the first, should the time not suffice for all."""
    yield from begin([name for name in options.variants if name not in timed], options, timed, until)
    ready = [timed[name] for name in options.variants if name in timed and timed[name].ready(until) is not None]
    for command in ["trace", "stages", *["trace"] * (blocks - 1)]:
        for one in list(ready):
            one.tell(command)
            answer = one.answer(until)
            yield {"step": command, "variant": one.variant, **(answer or {"failed": one.why()})}
            if answer is None:
                ready.remove(one)


def new_workers(options: argparse.Namespace, rows: Sequence[dict[str, Any]], until: float) -> Iterator[dict[str, Any]]:
    """Fresh processes with empty caches, one at a time, of what does not compile."""
    done = [row["variant"] for row in rows if row["step"] == "worker"]
    for name in [name for name in options.variants if not compiles(name, options)] * options.repeats:
        if is_unbuilt(name, options):
            continue
        if name in done:
            done.remove(name)
            continue
        if until - time.perf_counter() < options.worker_s:
            continue
        one = Process(name, "worker", options)
        one.tell("go")
        yield {"step": "worker", "variant": name, **(one.ready(until) or {"failed": one.why()})}
        one.end()


def main() -> None:
    """Do what is left to do, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("small", "full"), default="full")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE of the study file, such as another model")
    parser.add_argument(
        "--variant", action="append", default=[], metavar="NAME=FILE", help="a configuration.yaml in a variant's place"
    )
    parser.add_argument("--only", nargs="+", help="these variants")
    parser.add_argument("--do", nargs="+", choices=STEPS, default=list(STEPS), help="these steps")
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3, help="new workers of what starts in seconds")
    parser.add_argument("--budget-s", type=float, default=530.0, help="everything is ended by then")
    parser.add_argument("--processes", type=int, default=4, help="that build side by side, for each variant")
    parser.add_argument(
        "--build-gpus",
        nargs="+",
        metavar="GPU",
        help="build on these, a variant on each in turn; by default on the first",
    )
    parser.add_argument("--together", action="store_true", help="torch.compile's variants compile side by side")
    parser.add_argument("--worker-s", type=float, default=60.0, help="without so much time left no worker is started")
    parser.add_argument("--block-s", type=float, default=200.0, help="without so much time left no timing begins")
    parser.add_argument("--no-artefacts", action="store_true", help="paretune's configurations compile as well")
    parser.add_argument("--work", type=Path, default=Path("build/comic"))
    parser.add_argument("--out", type=Path, help="the page; by default it is printed")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        served(options.measure[0], Path(options.measure[1]), options.device)
        return
    from paretune.search_space import Configuration

    options.variants = dict(VARIANTS if options.device == "cuda" else ON_CPU)
    for given in options.variant:
        name, _, file = given.partition("=")
        found = Configuration.from_yaml(Path(file).read_text())
        options.variants[name] = {step.technique: step.values() for step in found.steps}
    everything = options.variants
    if unknown := set(options.only or ()) - set(everything):
        parser.error(f"--only knows {', '.join(everything)}, and not {', '.join(sorted(unknown))}")
    options.work.mkdir(parents=True, exist_ok=True)
    keys = write_folders(options)
    if options.only:
        options.variants = {name: one for name, one in options.variants.items() if name in options.only}
    began = time.perf_counter()
    until = began + options.budget_s
    file = options.work / "rows.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    rows = [row for row in rows if row["key"] == keys.get(row["variant"])]  # what a variant was before is not shown

    def keep(made: Iterator[dict[str, Any]]) -> None:
        for row in made:
            row |= {"at_s": round(time.perf_counter() - began, 1), "key": keys[row["variant"]]}
            rows.append(row)
            with file.open("a") as opened:
                opened.write(json.dumps(row) + "\n")
            said = row.get("failed") or {key: round(row[key], 2) for key in row if key.endswith("_s")}
            print(f"{row['at_s']:6.1f} s  {row['step']} {row['variant']}: {said}", file=sys.stderr, flush=True)

    timed: dict[str, Process] = {}
    try:
        missing = options.blocks - min(len(good(rows, "trace", name)) for name in options.variants)
        timing = "time" in options.do and missing > 0
        if "prepare" in options.do:
            keep(prepare(options, timed, until, timing=timing))
        if timing and until - time.perf_counter() > options.block_s:
            keep(serve_in_turns(options, timed, missing, until))
    finally:
        for process in list(timed.values()):
            process.end()
    if "workers" in options.do:
        keep(new_workers(options, rows, until))
    options.variants = {name: one for name, one in everything.items() if any(row["variant"] == name for row in rows)}
    folders = {name: folder_of(name, options) for name in options.variants}
    text = page(rows, options, folders)
    if options.out is None:
        print(text)
    else:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text)


if __name__ == "__main__":
    main()
