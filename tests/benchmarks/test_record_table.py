"""What a table of measured configurations has in it, and how its processes keep out of each other's way."""

import fcntl
import os
from pathlib import Path
from typing import Any

from paretune.search_space import PipelineFacts, Target, default_space, fitting_recipes, impossible
from paretune.testing import TINY_FACTS
from record_table import Gate, compiles, configurations, fastest_with_fewer
from support.launching import wait_until

H100 = Target(device="cuda", name="H100", compute_capability=(9, 0), memory_gib=80, packages=frozenset({"torchao"}))
SDXL = {"main": PipelineFacts.from_dict({**TINY_FACTS.to_dict(), "steps": (20,)})}


def test_a_table_begins_with_recipes_and_covers_every_value_of_every_parameter() -> None:
    space, _ = default_space(H100)
    space, _ = space.possible(H100, SDXL)
    found = configurations(space, H100, SDXL)
    assert found[:3] == [configuration for _, configuration in fitting_recipes(space, H100, SDXL)][:3]
    assert len(found) >= 1000
    assert all(impossible(one, H100, SDXL) is None for one in found)
    for part in (found[:500], [one for one in found if compiles(one)]):
        assert len({one.steps for one in part}) == len(part)
    met = {(s.technique, name, value) for one in found for s in one.steps for name, value in s.values().items()}
    all_values = {(name, p, value) for name, ps in space.techniques.items() for p, vs in ps.items() for value in vs}
    assert all_values <= met
    # A step cache's parameters are combined, in a configuration that is fast anyway.
    cached = [one for one in found if one.get("cuda_graphs") and one.get("deepcache")]
    assert len({str(one.get("deepcache")) for one in cached}) >= 40


def test_the_fastest_acceptable_ones_are_measured_again_until_each_has_its_processes() -> None:
    def row(technique: str, latency_ms: float, drift: float | None = 1.0, outcome: str = "complete") -> dict[str, Any]:
        found = {"configuration": [{technique: {}}], "outcome": outcome}
        return found | ({"latency_ms": latency_ms, "drift": drift} if outcome == "complete" else {})

    lines: list[dict[str, Any]] = [
        {"schema": 2},
        {"configuration": [], "outcome": "complete", "latency_ms": 100.0, "drift": None},
        *[row("tf32", 60.0), row("fused_qkv", 40.0), row("channels_last", 10.0, drift=3.0)],
        *[row("cudnn_benchmark", 5.0, outcome="oom"), row("vae_slicing", 70.0)],
    ]
    names = [[step.technique for step in one.steps] for one in fastest_with_fewer(lines, 2, 3)]
    assert names == [["fused_qkv"], ["tf32"]]
    lines += [row("fused_qkv", 80.0), row("fused_qkv", 75.0)]  # it was luck
    names = [[step.technique for step in one.steps] for one in fastest_with_fewer(lines, 2, 3)]
    assert names == [["tf32"], ["vae_slicing"]]


def test_who_times_its_calls_is_alone(tmp_path: Path) -> None:
    """A process that waits to be alone waits for those that are in, and later ones wait for it."""

    said, leave = tmp_path / "said", tmp_path / "leave"

    def process(*, alone: bool) -> int:
        if (pid := os.fork()) != 0:
            return pid
        try:
            gate = Gate(tmp_path)
            gate.enter(alone=alone)
            with said.open("a") as lines:
                print("in", "alone" if alone else "shared", file=lines, flush=True)
                wait_until(leave.exists, 60, "nobody lets it leave")
                print("out", "alone" if alone else "shared", file=lines, flush=True)
        finally:
            os._exit(0)  # which leaves the gate

    def is_waited_for() -> bool:
        """Whether somebody who wants to be alone stands in the door."""
        with (tmp_path / "door").open("w") as door:
            try:
                fcntl.flock(door, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    pids = [process(alone=False), process(alone=False)]
    wait_until(lambda: said.exists() and said.read_text().count("in shared") == 2, 60, "they are not in at once")
    pids.append(process(alone=True))
    wait_until(is_waited_for, 60, "it does not wait")
    pids.append(process(alone=False))
    leave.touch()
    for pid in pids:
        os.waitpid(pid, 0)
    lines = said.read_text().splitlines()
    assert lines[2:4] == ["out shared", "out shared"]
    assert lines[4:] == ["in alone", "out alone", "in shared", "out shared"]
