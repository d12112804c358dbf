"""How long a new worker takes until its first picture, with and without compiled artefacts: full-size SDXL.

    python benchmarks/cold_start.py --out cold-start.jsonl                      # on a CUDA GPU; ends within --budget-s
    python benchmarks/cold_start.py --out cold-start.jsonl --ways max_autotune  # goes on: rows that are there stay
    python benchmarks/cold_start.py --out tiny.jsonl --tiny                     # on any CPU, a tiny model, to try it

Every row is a fresh process with empty compiler caches. It imports torch and diffusers and loads the weights, which is
timed; then it waits until no other process does anything, and what follows is timed alone: apply(), with whatever it
loads or compiles, and the first picture. The first of each way makes a few more for the steady latency. Only what
compiles for minutes runs side by side (one process of each configuration at most, which share the cores evenly): those
rows are slower than they would be alone, and say with how many ("at once"). max-autotune takes the longest: it is tried
for the first configuration, from the start to the end of all, and rows that were made meanwhile say so.

Ways: eager (the configuration without torch.compile and CUDA graphs), default (the configuration as it is: it
compiles), max_autotune (the same in that mode), portable_cache (torch's own: save_cache_artifacts of the row
"default"), artefacts (the compiled code of a bundle, checked against manifest and fingerprint). Random weights: times
are real, pictures are not. Rows are written as they come; at the end all rows in the file are written as a Markdown
table beside it, each number the median of n processes: two files in all.
"""

import argparse
import gc
import json
import os
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

AROUND: dict[str, dict[str, Any]] = {"fused_qkv": {}, "channels_last": {}}
COMPILED: dict[str, dict[str, Any]] = {
    "torch_compile": {"region": "whole", "mode": "default"},
    "cuda_graphs": {"modules": "denoiser"},
}
CONFIGURATIONS: dict[str, dict[str, dict[str, Any]]] = {
    "whole": {**AROUND, **COMPILED},
    "deepcache": {**AROUND, "deepcache": {"interval": 3, "branch": 0, "full_percent": 0}, **COMPILED},
    "cudnn_benchmark": {"cudnn_benchmark": {}, **AROUND, **COMPILED},
    "float8": {**AROUND, "torchao_quantization": {"scheme": "float8_dynamic_tensor"}, **COMPILED},
}
SLOW = ("build", "default", "max_autotune")
WAYS = ("eager", "artefacts", "default", "portable_cache", "max_autotune")
CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TORCH_EXTENSIONS_DIR", "CUDA_CACHE_PATH")


def techniques_of(configuration: str, way: str) -> dict[str, dict[str, Any]]:
    """What is applied: a configuration's techniques as one of the ways has them."""
    techniques = dict(CONFIGURATIONS[configuration])
    if way == "eager":
        return {name: values for name, values in techniques.items() if name not in COMPILED}
    if way == "max_autotune":
        techniques["torch_compile"] = {"region": "whole", "mode": "max-autotune-no-cudagraphs"}
    return techniques


# --- in the measured process


def measure(way: str, folder: Path, device: str, steady: int, kernels: bool) -> None:
    """A fresh process: one line of JSON when it is ready, then on any line of standard input the measurement."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not come between the lines
    started = time.perf_counter()
    gc.disable()  # as a worker should: see the bundle's README
    import diffusers
    import torch

    gc.enable()
    row: dict[str, Any] = {"import_s": time.perf_counter() - started}
    from paretune.objectives.measuring import load_file
    from paretune.objectives.measuring.latency import synchronize, time_call_ms

    started = time.perf_counter()
    workload = load_file(folder / "workload.py", "workload").Workload.read(folder)
    pipelines = workload.load(device)
    synchronize(device)
    row["weights_s"] = time.perf_counter() - started
    request = workload.requests[0]
    print(json.dumps({"ready": True}), file=out, flush=True)
    sys.stdin.readline()

    cuda = device == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    how: dict[str, Any] = {}
    if way == "portable_cache":
        torch.compiler.load_cache_artifacts((folder.parent / "cache.bin").read_bytes())
    if way in ("build", "artefacts"):
        how["artefacts"] = folder / "artefacts"
        how |= {"on_miss": "build"} if way == "build" else {"strict": True}
    if way == "build":
        built_for = describe(pipelines, folder)
    applied = load_file(folder / "apply.py", "apply")
    applied.apply(pipelines, **how)
    synchronize(device)
    row["load_s"] = time.perf_counter() - started
    row["load_peak_gib"] = torch.cuda.max_memory_reserved() / 2**30 if cuda else None
    first_ms, pictures = time_call_ms(lambda: workload.run(pipelines, request), device)
    row["first_image_s"] = first_ms / 1000
    row["until_first_image_s"] = row["load_s"] + row["first_image_s"]
    if way == "build":
        write_manifest(folder, built_for)
    # What is launched first records CUDA graphs, so the first of these does not count.
    made = range(steady + 1 if steady else 0)
    times = [time_call_ms(lambda: workload.run(pipelines, request), device)[0] for _ in made][1:]
    row |= {"steady_ms": statistics.median(times) if times else None, "steady_all_ms": times}
    row["peak_gib"] = torch.cuda.max_memory_reserved() / 2**30 if cuda else None
    if steady and kernels:
        row["kernels"] = kernel_times(lambda: workload.run(pipelines, request), cuda)
    row["counters"] = getattr(applied, "counters", lambda pipelines: {})(pipelines)
    torch.save(pictures.float().cpu(), folder / "pictures.pt")
    if way == "default" and (saved := torch.compiler.save_cache_artifacts()) is not None:
        (folder.parent / "cache.bin").write_bytes(saved[0])
        row["bytes"] = len(saved[0])
    if way == "artefacts":
        row["bytes"] = sum(file.stat().st_size for file in (folder / "artefacts").rglob("*") if file.is_file())
    row["gpu"] = torch.cuda.get_device_name() if cuda else "cpu"
    row["versions"] = {"torch": torch.__version__, "diffusers": diffusers.__version__}
    print(json.dumps(row), file=out, flush=True)


def kernel_times(picture: Any, cuda: bool) -> dict[str, Any]:
    """What the GPU (or the CPU) does in a picture: {"ms": all of it, "most": the 25 names that take longest, each with
    [milliseconds, how often]}. What a process runs of the same code should be the same, however it came by it.
    """
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as profiled:
        picture()
        if cuda:
            import torch

            torch.cuda.synchronize()
    kind = "self_device_time_total" if cuda else "self_cpu_time_total"
    times = sorted(
        ((getattr(each, kind) / 1000, each.count, each.key) for each in profiled.key_averages()), reverse=True
    )
    most = {name[:100]: [round(ms, 3), count] for ms, count, name in times[:25]}
    return {"ms": round(sum(ms for ms, _, _ in times), 2), "most": most}


def describe(pipelines: Any, folder: Path) -> dict[str, Any]:
    """What the artefacts are built for, as a bundle says it."""
    from paretune.objectives.measuring import load_file

    return dict(load_file(folder / "trust.py", "trust").describe(pipelines))


def write_manifest(folder: Path, built_for: Any) -> None:
    """What a bundle has beside its artefacts, as far as loading them asks for it."""
    from paretune.agent.bundle import entries_of

    (folder / "artefacts" / "built_for.json").write_text(json.dumps(built_for))
    (folder / "manifest.json").write_text(json.dumps({"files": entries_of(folder)}))


# --- in the process that starts them


def prepare(folder: Path, configuration: str, way: str, options: argparse.Namespace) -> None:
    """A trial's folder for one way of a configuration."""
    from paretune.agent.bundle import trust_file
    from paretune.agent.trial.folder import write_trial_folder
    from paretune.search_space import Configuration, apply_source

    applied = Configuration.of(techniques_of(configuration, way))
    write_trial_folder(folder, applied.to_dict(), workload_of(options), apply_source(applied))
    shutil.copyfile(trust_file(), folder / "trust.py")


def keep_in(artefacts: Path, way: str) -> None:
    """The way in which code is kept that is built into a folder."""
    import torch

    artefacts.mkdir(exist_ok=True)
    index = {"schema": 1, "way": way, "torch": torch.__version__, "parts": []}
    (artefacts / "index.json").write_text(json.dumps(index))


def workload_of(options: argparse.Namespace) -> dict[str, Any]:
    """One request at full size; with --tiny one that a CPU answers in a moment."""
    from paretune.studies import read_study

    if not options.tiny:
        workload = dict(read_study("sdxl", settings=["workload.pipelines.main.weights=random"]).workload_description())
        workload["requests"] = [{**workload["requests"][0], "steps": options.steps}]
        return workload
    from paretune.testing import tiny_sdxl

    model = options.work / "tiny-sdxl"
    if not model.exists():
        tiny_sdxl().save_pretrained(model)
    pipeline = {"class": "StableDiffusionXLPipeline", "model": str(model.resolve()), "dtype": "float32"}
    pipeline |= {"weights": "real", "share": {}, "variant": None, "revision": None}
    request = {"name": "cat", "pipeline": "main", "prompt": "a cat", "width_px": 64, "height_px": 64, "steps": 4}
    return {"schema": 1, "pipelines": {"main": pipeline}, "requests": [request]}


class Contender:
    """A measured process, from its start to its row."""

    def __init__(
        self, configuration: str, way: str, options: argparse.Namespace, beside: int = 1, steady: int | None = None
    ) -> None:
        self.configuration, self.way, self.beside = configuration, way, beside
        self.scratch = tempfile.TemporaryDirectory(prefix="cold-start-", ignore_cleanup_errors=True)
        folder = options.work / configuration / ("artefacts" if way == "build" else way)
        # Artefacts are measured where they were built.
        if way != "artefacts":
            prepare(folder, configuration, way, options)
        if way == "build":
            keep_in(folder / "artefacts", options.keep)
        self.began = time.perf_counter()
        self.log = (options.work / configuration / f"{way}.log").open("a")
        environment = {**os.environ, **{name: f"{self.scratch.name}/{name.lower()}" for name in CACHES}}
        environment["TORCHINDUCTOR_COMPILE_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // beside))
        arguments = ["--measure", way, str(folder), "--device", options.device]
        arguments += ["--steady", str(options.steady if steady is None else steady)]
        arguments += [f"--{name}" for name in ("tiny", "kernels") if getattr(options, name)]
        self.process: Any = subprocess.Popen(
            [sys.executable, __file__, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment,
            start_new_session=True,
        )  # fmt: skip

    def answer(self, until: float) -> dict[str, Any] | None:
        """Its next line; None when time is up or it has ended."""
        ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, until - time.perf_counter()))
        line = self.process.stdout.readline() if ready else ""
        return json.loads(line) if line else None

    def go(self) -> None:
        """Let it measure."""
        self.went = time.perf_counter()
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def row(self, until: float) -> dict[str, Any]:
        """What it measured, or why nothing: {"failed": reason}. It is gone afterwards."""
        answer = self.answer(until)
        about = {"configuration": self.configuration, "way": self.way, "beside": self.beside}
        if answer is None:
            waited = round(time.perf_counter() - self.went, 1)
            ended = self.process.poll() is not None
            answer = {"failed": "ended" if ended else "not ready", "waited_s": waited}
            answer["said"] = Path(self.log.name).read_text(errors="replace")[-500:]
        self.end()
        return {**about, **answer}

    def end(self) -> None:
        """Kill it with its compile workers, and forget what it compiled."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()
        self.scratch.cleanup()


def run_together(contenders: list[Contender], until: float) -> Iterator[dict[str, Any]]:
    """All at once: what compiles for minutes."""
    for one in contenders:
        if one.answer(until) is not None:
            one.go()
        else:
            one.went = one.began
    for one in contenders:
        yield one.row(until)


def run_in_turns(contenders: list[Contender], until: float) -> Iterator[dict[str, Any]]:
    """One after the other, once all of them have imported and loaded."""
    ready = [one for one in contenders if one.answer(until) is not None or one.end()]
    for one in ready:
        one.go()
        yield one.row(min(until, time.perf_counter() + 120))


def main() -> None:
    """Start the processes, write their rows, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = ("whole", "deepcache", "float8")
    parser.add_argument("--configurations", nargs="+", choices=CONFIGURATIONS, default=usual)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--repeats", type=int, default=5, help="fresh processes of each way that starts in seconds")
    parser.add_argument("--steady", type=int, default=3, help="timed pictures after the first")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--budget-s", type=float, default=520.0, help="nothing is started that cannot end by then")
    parser.add_argument(
        "--waiting", type=int, default=6, help="how many processes wait at a time: 8 GB of GPU memory each"
    )
    parser.add_argument("--build-s", type=float, default=230.0, help="for building, and for compiling; each at most")
    parser.add_argument("--out", type=Path, default=Path("cold-start.jsonl"))
    parser.add_argument("--work", type=Path, default=Path("build/cold-start"), help="what was built, for the next run")
    parser.add_argument(
        "--keep",
        choices=("standalone_compile", "aot_compile", "aotinductor"),
        default="standalone_compile",
        help="how artefacts are kept; a --work and an --out of its own for each",
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--kernels", action="store_true", help="note what the GPU does in one more steady picture")
    parser.add_argument("--tiny", action="store_true", help="a tiny model on the CPU")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.tiny:
        options.device = "cpu"
        CONFIGURATIONS.pop("float8")
        CONFIGURATIONS.pop("cudnn_benchmark")
        for techniques in CONFIGURATIONS.values():
            techniques.pop("cuda_graphs")
        COMPILED.pop("cuda_graphs")
        options.configurations = [name for name in options.configurations if name in CONFIGURATIONS]
    if options.measure:
        measure(options.measure[0], Path(options.measure[1]), options.device, options.steady, options.kernels)
        return
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for name in options.configurations:
        (options.work / name).mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    until = began + options.budget_s
    for row in measured(options, until):
        row["at_s"] = round(time.perf_counter() - began, 1)
        with options.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        shown = {key: row.get(key) for key in ("load_s", "first_image_s", "steady_ms", "failed") if row.get(key)}
        say(began, f"{row['configuration']} {row['way']}: {shown}")
    written = table(read_rows(options.out), options.work)
    options.out.with_suffix(".md").write_text(written + "\n")
    print(written)


def say(began: float, text: str) -> None:
    """Progress."""
    print(f"{time.perf_counter() - began:6.1f} s  {text}", file=sys.stderr, flush=True)


def measured(options: argparse.Namespace, until: float) -> Iterator[dict[str, Any]]:
    """The rows, what matters most first."""
    names, ways = options.configurations, options.ways

    began = time.perf_counter()
    autotuned: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: autotuned.extend(autotune()))

    def autotune() -> list[dict[str, Any]]:
        # A few cores only, so that the others are not slowed down by much.
        return list(run_together([Contender(names[0], "max_autotune", options, beside=4)], until))

    def said(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for row in rows:
            yield {**row, "beside_max_autotune": thread.is_alive()}

    def slow(way: str, wanted: list[str], seconds: float) -> Iterator[dict[str, Any]]:
        say(began, f"{way} of {', '.join(wanted) or 'nothing'}, up to {seconds:.0f} s")
        contenders = [Contender(name, way, options, beside=len(wanted)) for name in wanted]
        yield from said(run_together(contenders, min(until, time.perf_counter() + seconds)))

    def quick(way_of_turn: list[tuple[str, str]], steady: int | None = None) -> Iterator[dict[str, Any]]:
        for start in range(0, len(way_of_turn), options.waiting):
            if until - time.perf_counter() < 60 and not options.tiny:
                return
            batch = way_of_turn[start : start + options.waiting]
            say(began, f"in turns: {', '.join(f'{name} {way}' for name, way in batch)}")
            yield from said(run_in_turns([Contender(name, way, options, steady=steady) for name, way in batch], until))

    if "max_autotune" in ways:
        thread.start()
    if "artefacts" in ways:
        missing = [name for name in names if not (options.work / name / "artefacts" / "manifest.json").exists()]
        yield from slow("build", missing, options.build_s)
    if "default" in ways:
        yield from slow("default", names, options.build_s)
    built = [name for name in names if (options.work / name / "artefacts" / "manifest.json").exists()]
    turn = [(name, way) for way in ("artefacts", "eager") if way in ways for name in names]
    turn = [(name, way) for name, way in turn if way != "artefacts" or name in built]
    yield from quick(turn)
    cached = [(name, "portable_cache") for name in names if (options.work / name / "cache.bin").exists()]
    cached = cached if "portable_cache" in ways else []
    yield from quick(cached[:1])
    yield from quick(turn * (options.repeats - 1), steady=0)
    yield from quick(cached[1:] + cached[:1] * (options.repeats - 1), steady=0)
    if "max_autotune" in ways:
        say(began, "waiting for max-autotune")
        thread.join()
        yield from autotuned


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Every row that was ever written to it."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def table(rows: list[dict[str, Any]], work: Path) -> str:
    """Medians, as Markdown."""
    lines = [
        "| configuration | way | n | imports s | weights s | load s | first image s | **load + first image s** | "
        "÷ default | steady ms | GiB while loading | MB | difference to default |",
        "| --- " * 13 + "|",
    ]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["configuration"], row["way"]), []).append(row)
    for (configuration, way), group in groups.items():
        good = [row for row in group if "failed" not in row]
        if not good:
            said = f"{group[-1]['failed']} after {group[-1]['waited_s']} s"
            lines.append(f"| {configuration} | {way} | 0 | | | | | {said} | | | | | |")
            continue

        def middle(key: str, good: list[dict[str, Any]] = good) -> float | None:
            known = [row[key] for row in good if row.get(key) is not None]
            return statistics.median(known) if known else None

        defaults = [
            row["until_first_image_s"] for row in groups.get((configuration, "default"), []) if "failed" not in row
        ]
        until_s = float(middle("until_first_image_s") or 0)
        ratio = f"1/{statistics.median(defaults) / until_s:.1f}" if defaults and until_s else ""
        spread = [row["until_first_image_s"] for row in good]
        words = f"**{until_s:.2f}** ({min(spread):.2f} to {max(spread):.2f})"
        if good[0]["way"] in SLOW and good[0]["beside"] > 1 and way != "max_autotune":
            words += f", {good[0]['beside']} at once"
        if any(row.get("beside_max_autotune") for row in good):
            words += ", beside max-autotune"
        cells = [shown(middle(key)) for key in ("import_s", "weights_s", "load_s", "first_image_s")]
        megabytes = middle("bytes")
        cells += [words, ratio, shown(middle("steady_ms"), 0), shown(middle("load_peak_gib"))]
        cells += ["" if megabytes is None else f"{megabytes / 1e6:.1f}", apart(work / configuration, way)]
        lines.append(f"| {configuration} | {way} | {len(good)} | " + " | ".join(cells) + " |")
    about = next((row for row in rows if "gpu" in row), {})
    return "\n".join([*lines, "", f"{about.get('gpu')}, {about.get('versions')}, {os.cpu_count()} cores"])


def shown(value: float | None, digits: int = 2) -> str:
    """A number, or nothing."""
    return "" if value is None else f"{value:.{digits}f}"


def apart(folder: Path, way: str) -> str:
    """How far a way's first pictures lie from those of torch.compile, relative (L2)."""
    import torch

    files = [folder / ("artefacts" if one == "build" else one) / "pictures.pt" for one in (way, "default")]
    if not all(file.exists() for file in files):
        return ""
    ours, theirs = (torch.load(file, weights_only=True) for file in files)
    return f"{float((ours - theirs).norm() / theirs.norm()):.1e}"


if __name__ == "__main__":
    main()
