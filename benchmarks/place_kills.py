"""SIGKILL to places of Ray, and to the launcher, at random moments: what is lost, measured twice, or left behind?

    python benchmarks/place_kills.py --workers 10 --launchers 5 > docs/results/place-kills.md

Ray, its actors, the launcher and the database are real, and each trial has a process of its own below a keeper; what
it would have measured is replayed (tests/support), so that a machine without a GPU gets through in minutes. A launch
with four places is killed and given again until it ends; when a study is finished before all kills are made, another
one begins. "Lost": runs that were stored before the kill and are not afterwards. "Twice": configurations of which two
complete trials are stored. "Left": processes of the launch that live half a minute after its end.
"""

import argparse
import collections
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from paretune.agent.measuring import Cluster, RayRunner
from paretune.agent.search import launch
from paretune.studies import Records, RunKind, UserError
from support.ray_places import SCRIPT, ReplayedPlace, Script
from support.replaying import World

TESTS = str(Path(__file__).resolve().parents[1] / "tests")
GONE_WITHIN_S = 30.0
TRIALS = 24
SECONDS = 1.0
"""What a trial takes at a place."""
WITHIN_S = 4.0
"""A kill comes so soon after a trial has begun, at most."""


@dataclass
class Kill:
    """One line of the table."""

    victim: str
    known: int
    """Runs that were stored before."""
    after: int = 0
    lost: int = 0
    twice: int = 0
    left: int = 0


def launched(folder: Path, name: str) -> None:
    """The launcher: four places, 24 trials."""
    world = World(folder)
    techniques = {"channels_last": {}, "fused_qkv": {}, "deepcache": {}, "vae_slicing": {}}
    study = world.study(
        name,
        [],
        space={"techniques": techniques, "recipes": False},
        measurement={"floor_processes": 2, "canary_every": 0},
        budget={"trials": TRIALS},
    )
    with (
        Cluster(workers=4, device="cpu", actor=ReplayedPlace) as cluster,
        closing(RayRunner(cluster, study)) as runner,
    ):
        launch(study, storage=world.storage, runner=runner, fresh=True)


class Killing:
    """Launches, kills, and looks at what is left."""

    def __init__(self, folder: Path, *, workers: int, launchers: int, seed: int = 1) -> None:
        self._folder = folder
        self._random = random.Random(seed)
        self._victims = ["worker"] * workers + ["launcher"] * launchers
        self._random.shuffle(self._victims)
        self._script = folder / "script.json"
        Script(self._script).write(seconds=SECONDS)
        self._begun = folder / "begun"
        self.kills: list[Kill] = []
        self._printed = 0
        self.trials: list[int] = []
        """Of each study, once it has ended."""

    def run(self) -> None:
        """Until all kills are made; the last study goes on to its end."""
        number = 0
        while self._victims:
            number += 1
            self._study(f"study-{number}")

    def _study(self, name: str) -> None:
        while True:
            self._begun.write_text("")
            with (self._folder / "log").open("ab") as log:
                process = subprocess.Popen(
                    [sys.executable, __file__, "--launch", str(self._folder), name],
                    stdout=log,
                    stderr=log,
                    env={**os.environ, SCRIPT: str(self._script), "PYTHONPATH": self._path()},
                )
            seen: dict[int, float] = {}
            watching = threading.Thread(target=_watch, args=(process, seen), daemon=True)
            watching.start()
            killed = False
            while self._victims and not killed and self._moment(process):
                victim, before = self._victims[0], self._stored(name)
                if self._kill(victim, process):
                    self._victims.pop(0)
                    self.kills.append(Kill(victim, len(before)))
                    killed = victim == "launcher"
                    self._look(name, before)
            before = self._stored(name)
            process.wait()
            left = _left(seen)
            self._look(name, before)
            if self.kills:
                self.kills[-1].left = left
            self._print()
            if process.returncode == 0:
                self.trials.append(len({one.trial for one in _runs(self._url, name) if one.run.kind == RunKind.TRIAL}))
                return
            if not killed:
                raise SystemExit(f"the launch does not work here: {(self._folder / 'log').read_text()[-3000:]}")

    def _print(self) -> None:
        """The kills of the launch that has ended, a row each."""
        for kill in self.kills[self._printed :]:
            self._printed += 1
            print(f"| {self._printed} | {' | '.join(map(str, vars(kill).values()))} |", flush=True)

    def _path(self) -> str:
        return os.pathsep.join([TESTS, *filter(None, [os.environ.get("PYTHONPATH")])])

    @property
    def _url(self) -> str:
        return f"sqlite:///{self._folder / 'paretune.db'}"

    def _moment(self, process: "subprocess.Popen[bytes]") -> bool:
        """Wait for a random one; False when the launch has ended before."""
        wanted = len(self._begun.read_text().splitlines()) + self._random.randint(2, 8)
        while len(self._begun.read_text().splitlines()) < wanted:
            if process.poll() is not None:
                return False
            time.sleep(0.05)
        time.sleep(self._random.uniform(0, WITHIN_S))
        return process.poll() is None

    def _kill(self, victim: str, process: "subprocess.Popen[bytes]") -> bool:
        print(".", end="", file=sys.stderr, flush=True)
        if victim == "launcher":
            process.kill()
            return True
        actors = []
        for one in psutil.Process(process.pid).children(recursive=True):
            try:
                if "ray::ReplayedPlace" in " ".join(one.cmdline()):
                    actors.append(one)
            except psutil.Error:
                continue
        if not actors:
            return False
        try:
            self._random.choice(actors).kill()
        except psutil.NoSuchProcess:
            return False
        return True

    def _stored(self, name: str) -> dict[int, str]:
        return {
            one.run.id: f"{one.run.kind} {one.run.outcome} {one.run.measurements}" for one in _runs(self._url, name)
        }

    def _look(self, name: str, before: dict[int, str]) -> None:
        if not self.kills:
            return
        kill, now = self.kills[-1], self._stored(name)
        kill.after = len(now)
        kill.lost += len(before.items() - now.items())
        complete = [one.run for one in _runs(self._url, name) if one.run.kind == RunKind.TRIAL and one.run.complete]
        kill.twice = sum(n - 1 for n in collections.Counter(run.configuration_key for run in complete).values())


def _runs(url: str, name: str) -> list:  # type: ignore[type-arg]
    try:
        return list(Records(url, must_exist=True).runs(name))
    except UserError:
        return []  # not yet


def _watch(process: "subprocess.Popen[bytes]", seen: dict[int, float]) -> None:
    """Remember every process that a launch has started, at any remove."""
    while process.poll() is None:
        try:
            for one in psutil.Process(process.pid).children(recursive=True):
                seen[one.pid] = one.create_time()
        except psutil.Error:
            continue
        time.sleep(0.1)


def _left(seen: dict[int, float]) -> int:
    deadline = time.monotonic() + GONE_WITHIN_S
    while True:
        alive = 0
        for pid, began in dict(seen).items():
            try:
                one = psutil.Process(pid)
                alive += one.create_time() == began and one.status() != psutil.STATUS_ZOMBIE
            except psutil.Error:
                continue
        if not alive or time.monotonic() > deadline:
            return alive
        time.sleep(0.2)


def main() -> int:
    """Kill, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=10, help="so many kills of a place's process")
    parser.add_argument("--launchers", type=int, default=5, help="so many of the launcher")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--launch", nargs=2, metavar=("FOLDER", "NAME"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.launch:
        launched(Path(options.launch[0]), options.launch[1])
        return 0
    print("| | killed | runs before | runs after | lost | measured twice | processes left |")
    print("| --- " * 7 + "|", flush=True)
    with tempfile.TemporaryDirectory(prefix="paretune-kills-") as folder:
        killing = Killing(Path(folder), workers=options.workers, launchers=options.launchers, seed=options.seed)
        killing.run()
    print(file=sys.stderr)
    bad = [kill for kill in killing.kills if kill.lost or kill.twice or kill.left]
    print(f"\n{len(bad)} of {len(killing.kills)} lost something, measured twice or left a process; ", end="")
    print(f"the {len(killing.trials)} studies ended with {', '.join(map(str, killing.trials))} trials.")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
