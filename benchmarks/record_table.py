"""Measure many configurations of one study, and keep the results as a table that searches can be tried on.

    python benchmarks/record_table.py --study quickstart --out benchmarks/tables/quickstart-h200.json --workers 12

Every configuration is a real trial. Workers share the machine, so a latency is rougher than a launch's would be; what a
search is judged by is whether it finds its way in the table, whatever the machine was. Stops after --minutes and keeps
what it has; with the same --out it goes on.
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ON_OFF: list[Any] = [None, {}]
CHOICES: dict[str, list[Any]] = {
    "dtype": [None, {"dtype": "bfloat16"}],
    "fused_qkv": ON_OFF,
    "channels_last": ON_OFF,
    "deepcache": [
        None,
        *(
            {"interval": interval, "branch": 0, "full_percent": percent}
            for interval, percent in itertools.product((2, 3, 5), (0, 50))
        ),
    ],
    "guidance_cutoff": [None, {"guided_percent": 60}, {"guided_percent": 90}],
    "cuda_graphs": [None, {"modules": "denoiser"}, {"modules": "denoiser_vae_text"}],
}
COMPILED = {"region": "whole", "mode": "default"}


def configurations(device: str) -> Iterator[dict[str, Any]]:
    """Every combination of CHOICES; compiled, of those with 16 bits, fused projections and channels last."""
    choices = {name: values for name, values in CHOICES.items() if device == "cuda" or name != "cuda_graphs"}
    plain = [
        {name: value for name, value in zip(choices, values, strict=True) if value is not None}
        for values in itertools.product(*choices.values())
    ]
    yield from plain
    for one in plain:
        if {"dtype", "fused_qkv", "channels_last"} <= set(one):
            yield {**one, "torch_compile": COMPILED}
    yield {"torch_compile": COMPILED}


def work(study_name: str, file: Path, folder: Path, until: float) -> None:
    """A worker: measures the configurations in `file`, and writes a line for each to standard output."""
    from paretune.agent.measuring import StudyRuns
    from paretune.agent.results import Trial
    from paretune.agent.search import launch
    from paretune.agent.trial import Executor
    from paretune.search_space import Configuration
    from paretune.studies import read_study

    # Workers share the GPU.
    Executor._wait_until_gpu_is_empty = lambda self: None  # type: ignore[method-assign]
    presets = [[{name: values} for name, values in one.items()] for one in json.loads(file.read_text())]
    settings = [
        "measurement.most_seconds=2",
        "measurement.floor_processes=2",
        "measurement.canary_every=0",
        "measurement.end_early=false",
        "quality.reordering_floor=false",
        "finalists.count=0",
        "torch_compile_baseline=false",
        "space.techniques=null",
        f"space.presets={json.dumps(presets)}",
    ]
    study = read_study(study_name, settings)
    said: set[str] = set()

    def say(event: Any) -> None:
        if event.kind in ("result", "note"):
            print(event.text, file=sys.stderr, flush=True)

    class Stop(Exception):
        pass

    original = StudyRuns.trial_run

    def trial_run(self: Any, number: int, *args: Any) -> Any:
        if number and time.time() > until:
            raise Stop
        return original(self, number, *args)

    StudyRuns.trial_run = trial_run  # type: ignore[method-assign]
    storage = f"sqlite:///{folder}/table.db"
    with contextlib.suppress(Stop):
        launch(study, storage=storage, trials=len(presets) + 1, on_event=say)
    from paretune.agent.results import Results
    from paretune.studies import Records

    def row(trial: Trial) -> dict[str, Any]:
        found: dict[str, Any] = {
            "configuration": Configuration.to_dict(trial.configuration)["techniques"],
            "outcome": str(trial.outcome),
            "seconds": round(sum(trial.timing.phases_s.values()), 2),
        }
        if trial.complete:
            found |= {
                "latency_ms": trial.measurements["latency_ms"],
                "peak_vram_gib": trial.measurements["peak_vram_gib"],
                "drift": trial.measurements["drift"],
                "verdict": str(trial.verdict),
            }
        else:
            found["reason"] = trial.reason[:200]
        return found

    results = Results(Records(storage), study.name)
    fingerprint = results.fingerprint.to_dict()
    for trial in results.trials:
        key = str(trial.configuration)
        if key not in said:
            said.add(key)
            print(json.dumps({"row": row(trial), "fingerprint": fingerprint}), flush=True)


def main() -> None:
    """Share the configurations among workers, collect their rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="quickstart")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    until = time.time() + 60 * options.minutes
    if options.work:
        work(options.study, Path(options.work[0]), Path(options.work[1]), float(options.work[2]))
        return
    table = json.loads(options.out.read_text()) if options.out.is_file() else {"schema": 1, "rows": []}
    known = {json.dumps(row["configuration"], sort_keys=True) for row in table["rows"]}
    from paretune.search_space import Configuration

    wanted = [
        one
        for one in configurations(options.device)
        if one and json.dumps(Configuration.of(one).to_dict()["techniques"], sort_keys=True) not in known
    ]
    random.Random(0).shuffle(wanted)
    root = Path(tempfile.mkdtemp())
    workers = []
    for index in range(options.workers):
        folder = root / str(index)
        folder.mkdir()
        (folder / "configurations.json").write_text(json.dumps(wanted[index :: options.workers]))
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        arguments = ["--study", options.study, "--out", str(options.out), "--work"]
        arguments += [str(folder / "configurations.json"), str(folder), str(until)]
        workers.append(
            subprocess.Popen([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, env=environment)
        )
    for worker in workers:
        out, _ = worker.communicate()
        for line in out.splitlines():
            found = json.loads(line)
            table["fingerprint"] = found["fingerprint"]
            key = json.dumps(found["row"]["configuration"], sort_keys=True)
            if key not in known:
                known.add(key)
                table["rows"].append(found["row"])
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(table, indent=0))
    print(f"{len(table['rows'])} of {len(wanted) + len(table['rows'])} configurations")


if __name__ == "__main__":
    main()
