"""What a table of measured configurations has in it, and how its processes keep out of each other's way."""

import os
import time
from pathlib import Path

from paretune.search_space import PipelineFacts, Target, default_space, fitting_recipes, impossible
from paretune.testing import TINY_FACTS
from record_table import Gate, compiles, configurations

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


def test_who_times_its_calls_is_alone(tmp_path: Path) -> None:
    """A process that waits to be alone waits for those that are in, and later ones wait for it."""

    def process(wait_s: float, alone: bool) -> int:
        if (pid := os.fork()) != 0:
            return pid
        time.sleep(wait_s)
        gate = Gate(tmp_path)
        gate.enter(alone=alone)
        with (tmp_path / "said").open("a") as said:
            said.write(f"in {'alone' if alone else 'shared'}\n")
            said.flush()
            time.sleep(0.3)
            said.write(f"out {'alone' if alone else 'shared'}\n")
        os._exit(0)  # which leaves the gate

    for pid in [process(0, False), process(0, False), process(0.1, True), process(0.2, False)]:
        os.waitpid(pid, 0)
    lines = (tmp_path / "said").read_text().splitlines()
    assert lines[:2] == ["in shared", "in shared"]
    assert lines[4:] == ["in alone", "out alone", "in shared", "out shared"]
