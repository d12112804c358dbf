"""How much sooner several GPUs of one host get through a search: trials per hour at one place, and at all of them.

    python benchmarks/two_gpus.py --places 1 2 --minutes 3 --out two-gpus.jsonl      # on the GPU host, under 9 minutes
    python benchmarks/two_gpus.py --report two-gpus.jsonl > docs/results/two-gpus.md
    python benchmarks/two_gpus.py --tiny --places 1 2 --minutes 0.5 --out tiny.jsonl # tried without a GPU

Full-size SDXL with random weights, 1024 pixels. Each number of places searches for so many minutes, in the order given
and, in the next call with the same file, in the other order, so that what changes in the meantime favours none. The
configurations are a fixed list without compilers, the same for all: what a trial costs is then the same too. Trials are
counted until the first place has nothing more to do; of one that runs then, the share that is over. The reference, the
noise floor and Ray's start are not in it: they cost the same once.
"""

import argparse
import itertools
import json
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from paretune.agent.measuring import Cluster, RayRunner
from paretune.agent.search import Event, launch
from paretune.studies import Study, parse_study, read_study
from paretune.testing import tiny_sdxl

CONFIGURATIONS = [
    {**memory, **fused, **cached}
    for cached in (
        {},
        *(
            {"deepcache": {"interval": interval, "branch": branch, "full_percent": 0}}
            for interval, branch in itertools.product((2, 3, 4, 5), (0, 1))
        ),
    )
    for memory in ({}, {"channels_last": {}})
    for fused in ({}, {"fused_qkv": {}})
][1:]


def study(folder: Path, tiny: bool, steps: int) -> Study:
    """What is searched: nothing but the fixed list, in its order."""
    request = {"seed": 1, "steps": steps, "guidance": 5.0}
    if tiny:
        model = folder / "tiny-sdxl"
        if not model.is_dir():
            tiny_sdxl().save_pretrained(model)
        pipeline = {"class": "StableDiffusionXLPipeline", "model": str(model), "dtype": "float32"}
        workload: dict[str, Any] = {
            "pipelines": {"main": pipeline},
            "requests": [{"name": "cat", "prompt": "a cat", "width_px": 64, "height_px": 64, **request}],
        }
    else:
        workload = read_study("sdxl", ["workload.pipelines.main.weights=random"]).model_dump(
            by_alias=True, mode="json"
        )["workload"]
        workload["requests"] = [{"name": "cat", "prompt": "a cat", "width_px": 1024, "height_px": 1024, **request}]
    techniques: dict[str, Any] = {"channels_last": {}, "fused_qkv": {}, "deepcache": {}}
    content = {
        "schema": 1,
        "name": "several",
        "device": "cpu" if tiny else "cuda",
        "workload": workload,
        "space": {
            "techniques": techniques,
            "recipes": False,
            "presets": [[{name: values} for name, values in one.items()] for one in CONFIGURATIONS],
        },
        "torch_compile_baseline": False,
        "measurement": {
            **{"calls": 5, "most_calls": 8, "warm_up_calls": 2, "floor_processes": 2, "canary_every": 0},
            "end_early": False,
        },
        "finalists": {"count": 0},
        "quality": {"pictures": {"screen": 1, "front": 1, "finalists": 1}, "reordering_floor": False},
        "budget": {"trials": len(CONFIGURATIONS) + 1},
        "sampler": {"guided": False},
    }
    return parse_study(content, "two_gpus.py", folder)


def searched(folder: Path, wanted: Study, places: int, minutes: float) -> dict[str, Any]:
    """One search at so many places."""
    began: list[float] = []
    ended: list[float] = []

    def note(event: Event) -> None:
        if event.kind == "trial" and event.text != "reference" and not began:
            began.append(time.monotonic())
        if event.kind == "result":
            ended.append(time.monotonic())
        print(f"{places}: {event.kind} {event.text}"[:150], file=sys.stderr, flush=True)

    storage = f"sqlite:///{folder / f'places-{places}.db'}"
    with Cluster(workers=places, device=wanted.device) as cluster, closing(RayRunner(cluster, wanted)) as runner:
        results = launch(wanted, storage=storage, runner=runner, max_minutes=minutes, on_event=note)
        fingerprint = runner.fingerprint
    # In the order in which they were stored, which is that of the events.
    trials = sorted((trial for trial in results.trials if not trial.is_reference), key=lambda trial: trial.link)
    at: dict[str, list[float]] = {}
    for trial, end in zip(trials, ended, strict=True):
        at.setdefault(trial.timing.worker, []).append(end - began[0])
    disturbance = results.disturbance
    return {
        "places": places,
        "device": fingerprint.device_name,
        "threads_each": fingerprint.cpu_threads,
        "versions": {name: fingerprint.packages.get(name) for name in ("torch", "diffusers")},
        "at": {place: {"trials": len(ends), "seconds": ends[-1]} for place, ends in at.items()},
        "per_hour": rate_per_hour(list(at.values())),
        "outcomes": sorted({str(trial.outcome) for trial in trials}),
        "disturbance": None if disturbance is None else [disturbance.alone_ms, disturbance.together_ms],
        "reference_ms": results.reference.figure("latency_ms"),
    }


def rate_per_hour(at: list[list[float]]) -> float:
    """Trials per hour of all places, from the seconds at which each of them had a result."""
    until = min((ends[-1] for ends in at), default=0.0)
    count = 0.0
    for ends in at:
        whole = [end for end in ends if end <= until]
        count += len(whole)
        if len(whole) < len(ends):
            began = whole[-1] if whole else 0.0
            count += (until - began) / (ends[len(whole)] - began)
    return 3600 * count / until if until else 0.0


def report(file: Path) -> str:
    """The lines of a file, as Markdown."""
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    one = [line["per_hour"] for line in lines if line["places"] == 1]
    first = lines[0]
    rows = []
    for places in sorted({line["places"] for line in lines}):
        found = [line for line in lines if line["places"] == places]
        rates = [line["per_hour"] for line in found]
        mean = sum(rates) / len(rates)
        ratio = f"{mean / (sum(one) / len(one)):.2f}" if one else "-"
        spread = f"{min(rates):.1f} to {max(rates):.1f}"
        trials = sum(at["trials"] for line in found for at in line["at"].values())
        rows.append(f"| {places} | {len(found)} | {trials} | {mean:.1f} ({spread}) | {ratio} |")
    words = "".join(
        f"\n- {line['places']} places: the unchanged reference took {together_ms:.0f} ms with all at work, "
        f"{alone_ms:.0f} ms with the others idle ({together_ms / alone_ms - 1:+.1%})."
        for line in lines
        if line["disturbance"]
        for alone_ms, together_ms in [line["disturbance"]]
    )
    return (
        f"# Several GPUs of one host\n\n```\npython benchmarks/two_gpus.py --report {file.name}\n```\n\n"
        f"{first['device']}, torch {first['versions']['torch']}, diffusers {first['versions']['diffusers']}; the "
        f"reference takes {first['reference_ms']:.0f} ms. {__doc__.split(chr(10) * 2)[2].strip()}\n\n"
        "| places | searches | trials | trials per hour | times one place |\n| --- | --- | --- | --- | --- |\n"
        + "\n".join(rows)
        + (f"\n\nWhat working side by side costs:\n{words}" if words else "")
        + "\n"
    )


def main() -> None:
    """Search, or say what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--places", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--minutes", type=float, default=3.0, help="of search, for each number of places")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--tiny", action="store_true", help="the tiny pipeline, on the CPU")
    parser.add_argument("--out", type=Path, default=Path("two-gpus.jsonl"), help="a line per search is added")
    parser.add_argument("--report", type=Path, help="print what a file has, and search nothing")
    options = parser.parse_args()
    if options.report is not None:
        print(report(options.report), end="")
        return
    done = len(options.out.read_text().splitlines()) if options.out.is_file() else 0
    turned = (done // len(options.places)) % 2 == 1
    for places in options.places[::-1] if turned else options.places:
        with tempfile.TemporaryDirectory(prefix="paretune-several-") as folder:
            found = searched(Path(folder), study(Path(folder), options.tiny, options.steps), places, options.minutes)
        with options.out.open("a") as file:
            file.write(json.dumps(found) + "\n")
        print(f"{places}: {found['per_hour']:.1f} trials per hour", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
