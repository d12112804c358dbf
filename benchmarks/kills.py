"""Is anything lost, measured twice or left running when processes are killed at random moments?

    OMP_NUM_THREADS=1 python benchmarks/kills.py                # 20 SIGKILLs
    OMP_NUM_THREADS=1 python benchmarks/kills.py --kills 3 --per-launch 1

Launches a study of a tiny pipeline (on the CPU, with a technique that leaves child processes behind), exports its best
configuration and verifies the bundle. At random moments it sends SIGKILL to the command itself, to the process above a
tree (the keeper), to the trial server or to the process that measures, gives the same command again until it ends, and
begins with a new study when all is done. Prints a Markdown table, and exits with 1 if a stored run was lost or changed,
something was measured twice, a process was left, or a command ended with a traceback.
"""

import argparse
import collections
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from paretune.search_space import Axis, Loss, NoParameters, Technique
from paretune.studies import Records, RunKind, UserError
from paretune.testing import tiny_sdxl

MARK = "PARETUNE_KILLS"
"""Environment variable by which whatever was started, at any remove, is found."""
GONE_WITHIN_S = 30.0
COLD_STARTS = 2
STARTING_S = 10.0
"""A command may be killed so long after its start, whatever it does then,"""
MEASURING_S = 2.5
"""or so long after one of its processes has started."""


def leave_children(pipelines: dict[str, Any]) -> None:
    """Makes a third of the steps, so that there is something to confirm, and leaves two processes behind."""
    import subprocess
    import sys

    scheduler = pipelines["main"].scheduler
    set_timesteps = scheduler.set_timesteps
    scheduler.set_timesteps = lambda steps, *args, **kwargs: set_timesteps(steps // 3, *args, **kwargs)
    sleep = [sys.executable, "-c", "import time; time.sleep(3600)", "left behind"]
    subprocess.Popen(sleep)
    subprocess.Popen(sleep, start_new_session=True)


def took_effect(pipelines: dict[str, Any]) -> None:
    return None


TECHNIQUES = (
    Technique(
        name="leave_children",
        axis=Axis.MEMORY,
        loss=Loss.APPROXIMATE,
        summary="Makes fewer steps, and leaves two processes behind, one of them in a session of its own.",
        source="-",
        parameters=NoParameters,
        apply=leave_children,
        took_effect=took_effect,
    ),
)


def study(model: Path, name: str) -> dict[str, Any]:
    """The content of a study file: as few processes as there can be, and some of each kind."""
    request = {"name": "cat", "prompt": "a cat", "width_px": 64, "height_px": 64, "steps": 6}
    pipeline = {"class": "StableDiffusionXLPipeline", "model": str(model), "dtype": "float32"}
    return {
        "schema": 1,
        "name": name,
        "device": "cpu",
        "workload": {"pipelines": {"main": pipeline}, "requests": [request]},
        "space": {
            "files": [str(Path(__file__).resolve())],
            "techniques": {"leave_children": {}, "channels_last": {}},
            "presets": [[{"leave_children": {}}], [{"leave_children": {}, "channels_last": {}}]],
        },
        "torch_compile_baseline": False,
        "measurement": {
            **{"calls": 5, "most_calls": 5, "warm_up_calls": 1, "floor_processes": 2, "canary_every": 0},
            "end_early": False,
        },
        "finalists": {"count": 1, "blocks": 3, "cold_starts": COLD_STARTS},
        "quality": {"pictures": {"screen": 1, "front": 1, "finalists": 2}, "reordering_floor": False},
        "budget": {"trials": 3},
    }


@dataclass
class Kill:
    """One line of the table."""

    moment: str
    victim: str
    storage: str
    known: dict[int, str]
    """{id: what was measured} of every run that was stored before it."""
    after: int = 0
    lost: int = 0
    twice: int = 0
    left: int = 0

    def see(self, name: str) -> None:
        """What has become of the study meanwhile: before the next kill, or at the end of a command after it."""
        now = _runs(self.storage, name)
        self.after, self.twice = len(now), _twice(self.storage, name)
        self.lost = len(self.known.items() - now.items())

    def __str__(self) -> str:
        cells = [self.moment, self.victim, len(self.known), self.after, self.lost, self.twice, self.left]
        return f"| {' | '.join(map(str, cells))} |"


class Killing:
    """Runs the commands of one study after another, and kills."""

    def __init__(self, folder: Path, model: Path, kills: int, per_launch: int, seed: int) -> None:
        self._folder, self._model, self._wanted, self._per_launch = folder, model, kills, per_launch
        self._random = random.Random(seed)
        self._mark = f"{os.getpid()}-{time.monotonic_ns()}"
        self.kills: list[Kill] = []
        self.tracebacks: list[str] = []
        self._log = folder / "output"

    def run(self) -> None:
        """Until so many were killed; what has begun then goes on to its end."""
        for number in itertools.count(1):
            if len(self.kills) >= self._wanted:
                return
            self._one_study(f"study-{number}")

    def _one_study(self, name: str) -> None:
        file = self._folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(study(self._model, name), sort_keys=False))
        storage = f"sqlite:///{self._folder / name}.db"
        bundle = self._folder / f"{name}-bundle"
        launch = ["launch", str(file), "--storage", storage]
        export = ["export", name, "-o", str(bundle), "--unconfirmed", "--storage", storage]
        self._until_it_ends(launch, storage, name, self._per_launch)
        if self._until_it_ends(export, storage, name, 1) == 0:
            self._until_it_ends(["verify", str(bundle)], storage, name, 2)

    def _until_it_ends(self, arguments: list[str], storage: str, name: str, most: int) -> int:
        """Give the same command again until it ends by itself, killing at most so often; its exit code."""
        command, killed_here = arguments[0], 0
        while True:
            with self._log.open("wb") as output:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "paretune.agent.cli", *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=self._folder,
                    env={**os.environ, MARK: self._mark},
                )
            dead, killed_before = False, killed_here
            while not dead and killed_here < most and len(self.kills) < self._wanted:
                # Cold starts come at the end of a launch, which few random moments are in.
                if command == "launch" and killed_here == most - 1:
                    self._wait_for_a_cold_start(process)
                else:
                    self._wait_for_a_moment(command, process)
                if process.poll() is not None:
                    break
                self._see(storage, name)
                killed_here += 1
                dead = self._kill(command, process, storage, _runs(storage, name))
            process.wait()
            text = self._log.read_text(errors="replace")
            if "Traceback" in text:
                self.tracebacks.append(text[-3000:])
            left = self._left()
            for kill in self.kills[len(self.kills) - (killed_here - killed_before) :]:
                kill.left = len(left)
            self._see(storage, name)
            for one in left:
                one.kill()
            if process.returncode == 2 and killed_here == killed_before and command != "export":
                raise SystemExit(f"{command} does not work here: {text.strip()}")
            # 1: a bundle that was slower than its evidence while other programs ran. 2 after a kill: given again.
            # Nothing to export: all that was measured beside the reference was killed, and counts as failed.
            if process.returncode in (0, 1) or (process.returncode == 2 and killed_here == killed_before):
                return process.returncode

    def _see(self, storage: str, name: str) -> None:
        if self.kills and self.kills[-1].storage == storage:
            self.kills[-1].see(name)

    def _wait_for_a_moment(self, command: str, process: "subprocess.Popen[bytes]") -> None:
        """A random one: soon, or while the first, second, ... process from now on runs; or the command's end."""
        seen: set[int] = set()
        wanted = 0 if command == "export" else self._random.randint(0, 1 if command == "verify" else 4)
        while process.poll() is None and len(seen) < wanted:
            found = self._processes(process.pid)
            seen |= {found[what].pid for what in ("trial", "bundle", "cold start") if what in found}
            time.sleep(0.1)
        deadline = time.monotonic() + self._random.uniform(0.0, MEASURING_S if wanted else STARTING_S)
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)

    def _wait_for_a_cold_start(self, process: "subprocess.Popen[bytes]") -> None:
        """A random moment of one, or the command's end."""
        while process.poll() is None and "cold start" not in self._processes(process.pid):
            time.sleep(0.1)
        time.sleep(self._random.uniform(0.0, 1.0))

    def _kill(self, command: str, process: "subprocess.Popen[bytes]", storage: str, known: dict[int, str]) -> bool:
        """SIGKILL to one of the processes; whether it was the command itself."""
        found = self._processes(process.pid)
        victim = "command" if len(found) == 1 or self._random.random() < 0.5 else self._random.choice(sorted(found))
        moment = f"{command}: {_moment(found)}"
        try:
            found[victim].kill()
        except (psutil.NoSuchProcess, KeyError):
            victim = "command"
            process.kill()
        if victim == "command":
            process.wait()
        print(".", end="", file=sys.stderr, flush=True)
        self.kills.append(Kill(moment, victim, storage, known))
        return victim == "command"

    def _processes(self, command: int) -> dict[str, psutil.Process]:
        """{what it is: one process of it}, of those that run now."""
        found = {"command": psutil.Process(command)}
        for process in _marked(self._mark):
            try:
                line = " ".join(process.cmdline())
                above = process.parent()
            except psutil.Error:
                continue
            if "left behind" in line or process.pid == command:
                continue
            if "keeper.py" in line:
                found["keeper"] = process
            elif "fork_server" in line:
                is_server = above is not None and "keeper.py" in " ".join(above.cmdline())
                found["trial server" if is_server else "trial"] = process
            elif "--cold" in line:
                found["cold start"] = process
            elif "run.py" in line:
                found["bundle"] = process
        return found

    def _left(self) -> list[psutil.Process]:
        deadline = time.monotonic() + GONE_WITHIN_S
        while (left := _marked(self._mark)) and time.monotonic() < deadline:
            time.sleep(0.2)
        return left


def _moment(found: dict[str, psutil.Process]) -> str:
    doing = {"cold start": "in a cold start", "bundle": "in the bundle's process", "trial": "in a measuring process"}
    return next((words for what, words in doing.items() if what in found), "between processes")


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def _stored(storage: str, name: str) -> Iterator[Any]:
    try:
        yield from (one.run for one in Records(storage, must_exist=True).runs(name))
    except UserError:
        return  # not yet


def _runs(storage: str, name: str) -> dict[int, str]:
    """{id: what was measured} of every stored run."""
    return {run.id: f"{run.kind} {run.outcome} {run.measurements}" for run in _stored(storage, name)}


def _twice(storage: str, name: str) -> int:
    """How many complete runs measured what another one had."""
    complete = [run for run in _stored(storage, name) if run.complete]
    places = collections.Counter(
        (run.kind, run.configuration_key, *(() if run.kind == RunKind.TRIAL else (run.session, run.position)))
        for run in complete
        if run.kind != RunKind.COLD_START
    )
    cold = collections.Counter(run.configuration_key for run in complete if run.kind == RunKind.COLD_START)
    return sum(count - 1 for count in places.values()) + sum(max(0, n - COLD_STARTS) for n in cold.values())


def main() -> int:
    """Kill, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--per-launch", type=int, default=5, help="at most so many before a launch may end")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="paretune-kills-") as scratch:
        model = Path(scratch) / "tiny-sdxl"
        tiny_sdxl().save_pretrained(model)
        killing = Killing(Path(scratch), model, options.kills, options.per_launch, options.seed)
        killing.run()
    print(file=sys.stderr)
    print("| | killed while | killed | runs before | runs after | lost | measured twice | processes left |")
    print("| --- |" + " --- |" * 7)
    for number, kill in enumerate(killing.kills, start=1):
        print(f"| {number} {kill}")
    bad = [kill for kill in killing.kills if kill.lost or kill.twice or kill.left]
    for text in killing.tracebacks:
        print(text, file=sys.stderr)
    print(f"\n{len(bad)} of {len(killing.kills)} lost something, measured twice or left a process; ", end="")
    print(f"{len(killing.tracebacks)} commands ended with a traceback.")
    return 1 if bad or killing.tracebacks else 0


if __name__ == "__main__":
    # A SIGTERM ends what is being run, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
