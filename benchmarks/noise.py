"""Does the noise floor hold? The same configuration under ten names, and a planted slowdown.

    python benchmarks/noise.py                                        # the model that comes with paretune, 10 % planted
    python benchmarks/noise.py --study sdxl --set workload.pipelines.main.weights=random --percent 3

Prints, as Markdown: the noise floor of the unchanged reference; of ten processes of the same configuration, how many of
the 45 pairs differ by more than it (stated: 5 %); the comparison in interleaved blocks of the reference with itself
(stated: no difference) and with the reference slowed down by the given share (stated: slower).
"""

import argparse
import dataclasses
import inspect
import itertools
import json
import statistics
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from paretune.agent.trial.device import detect_device
from paretune.agent.trial.executor import Executor
from paretune.agent.trial.files import write_text
from paretune.agent.trial.folder import write_scripts
from paretune.agent.trial.process import Job
from paretune.objectives.measuring import Plan
from paretune.objectives.measuring.intervals import compare_paired
from paretune.objectives.noise_floor import floor_of, relative_difference
from paretune.search_space import Configuration, apply_source
from paretune.studies import Outcome, read_study


def slow_down(pipelines: dict[str, Any], milliseconds: float) -> None:
    """Wait so long in every decoding of a picture: a GPU spins in a kernel, a CPU in a loop."""
    import time

    import torch

    for vae in {id(p.vae): p.vae for p in pipelines.values()}.values():
        inner = vae.decode

        def decode(*args: Any, _inner: Any = inner, **kwargs: Any) -> Any:
            images = _inner(*args, **kwargs)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            end_s = time.perf_counter() + milliseconds / 1000
            while time.perf_counter() < end_s:
                pass
            return images

        vae.decode = decode


class Bench:
    """Measures apply.py texts, each in a fresh process."""

    def __init__(self, executor: Executor, workload: dict[str, Any], folder: Path, plan: Plan) -> None:
        self._executor, self._workload, self._folder, self._plan = executor, workload, folder, plan

    def latency_ms(self, apply_py: str) -> float:
        """One process."""
        write_scripts(self._folder, self._workload)
        for left in ("result.json", "phases.jsonl"):
            (self._folder / left).unlink(missing_ok=True)
        write_text(self._folder / "apply.py", apply_py)
        for name in ("pictures", "latents"):
            if (self._folder / name).exists():
                (self._folder / name).rmdir()
        job = Job(
            folder=str(self._folder),
            device=self._executor.device,
            configuration=Configuration().to_dict(),
            plan=dataclasses.asdict(self._plan),
            reference_pictures=None,
            quality_assessed=False,
            technique_files=[],
            import_s=0.0,
            judge=False,
        )
        result = self._executor.run(job)
        if result.outcome is not Outcome.COMPLETE:
            raise SystemExit(f"{result.outcome}: {result.reason}")
        print(".", end="", file=sys.stderr, flush=True)
        return float(result.measurements["latency_ms"])


def main() -> None:
    """Run it and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="quickstart")
    parser.add_argument("--set", action="append", default=[], help="as for paretune launch")
    parser.add_argument("--percent", type=float, default=10.0, help="how much the planted slowdown slows down")
    parser.add_argument("--names", type=int, default=10)
    parser.add_argument("--floor-processes", type=int, default=5)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--calls", type=int, default=5, help="timed calls per process")
    parser.add_argument("--folder", type=Path, default=Path("noise-benchmark"))
    options = parser.parse_args()
    study = read_study(options.study, options.set)
    workload = study.workload_description()
    workload["requests"] = workload["requests"][:1]  # one is enough to time, and its picture means nothing here
    classes = sorted({spec["class"] for spec in workload.get("pipelines", {}).values()})
    plan = Plan(calls=options.calls, most_calls=options.calls, warm_up_calls=2, memory=False, stages=False, pictures=())
    reference = apply_source(Configuration())
    with closing(Executor(detect_device(study.device), classes, study.deadlines_s.model_dump())) as executor:
        bench = Bench(executor, workload, options.folder, plan)
        floor_ms = [bench.latency_ms(reference) for _ in range(options.floor_processes)]
        names_ms = [bench.latency_ms(reference) for _ in range(options.names)]
        wait_ms = statistics.median(floor_ms) * options.percent / 100
        source = f"from typing import Any\n\n\n{inspect.getsource(slow_down)}\n\n"
        planted = f"{source}def apply(pipelines: Any) -> None:\n    slow_down(pipelines, {wait_ms!r})\n"
        contenders = {"reference": reference, "itself": reference, "planted": planted}
        blocks: dict[str, list[float]] = {name: [] for name in contenders}
        for block in range(options.blocks):
            for name in list(contenders) if block % 2 == 0 else list(contenders)[::-1]:
                blocks[name].append(bench.latency_ms(contenders[name]))
        machine = executor.fingerprint
    print(file=sys.stderr)
    floor = floor_of(floor_ms)
    pairs = [relative_difference(a, b) for a, b in itertools.combinations(names_ms, 2)]
    different = sum(pair > floor for pair in pairs)
    versions = ", ".join(f"{name} {version}" for name, version in machine.packages.items() if version)
    print(f"{machine.device_name}, {versions}; study {study.name}, {options.calls} calls per process\n")
    print("| what | stated | found |\n| --- | --- | --- |")
    print(f"| noise floor of the reference | | {floor:.2%}, from {len(floor_ms)} processes: {_ms(floor_ms)} |")
    print(
        f"| the same under {options.names} names: pairs called different | at most 5 % | "
        f"{different} of {len(pairs)} ({different / len(pairs):.0%}); largest difference {max(pairs):.2%} |"
    )
    itself = compare_paired(blocks["reference"], blocks["itself"])
    print(f"| the reference against itself, in blocks | tie | {itself.words()} |")
    slowed = compare_paired(blocks["reference"], blocks["planted"])
    print(f"| {options.percent:g} % planted ({wait_ms:.0f} ms), in blocks | slower | {slowed.words()} |")
    print(f"\n<!-- {json.dumps({'floor_ms': floor_ms, 'names_ms': names_ms, 'blocks_ms': blocks})} -->")


def _ms(values: list[float]) -> str:
    return ", ".join(f"{value:.0f}" for value in values) + " ms"


if __name__ == "__main__":
    main()
