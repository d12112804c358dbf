"""A Ray cluster that is there already: two nodes on this machine, and the loss of its head."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from paretune.agent.trial import PIPE, ProcessTree
from support.ray_places import SCRIPT, Script

pytest.importorskip("ray")
TESTS = str(Path(__file__).parents[2])
LAUNCH = """
import sys
from contextlib import closing
from pathlib import Path
from paretune.agent.measuring import Cluster, RayRunner
from paretune.agent.search import launch
from paretune.studies import UserError
from support.ray_places import ReplayedPlace
from support.replaying import World

address, folder, trials = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
world = World(folder)
techniques = {"channels_last": {}, "fused_qkv": {}, "deepcache": {}}
study = world.study("joined", [], space={"techniques": techniques}, budget={"trials": trials},
                    measurement={"floor_processes": 2, "canary_every": 0})
try:
    with Cluster(address=address, workers=3, device="cpu", actor=ReplayedPlace) as cluster:
        print("nodes", len({place.node for place in cluster.places}), flush=True)
        with closing(RayRunner(cluster, study)) as runner:
            results = launch(study, storage=world.storage, runner=runner)
    print("trials", len(results.trials), len({trial.configuration for trial in results.trials}), flush=True)
except UserError as error:
    print("error", error, flush=True)
    sys.exit(2)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    found = {
        "PYTHONPATH": os.pathsep.join([TESTS, *filter(None, [os.environ.get("PYTHONPATH")])]),
        SCRIPT: str(tmp_path / "script.json"),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "a" * 64,
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    Script(tmp_path / "script.json").write(seconds=0.3)
    return found


def ray_start(environment: dict[str, str], *options: str) -> ProcessTree:
    """A node of a cluster, below a keeper."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus", "2", *options]
    return ProcessTree(command, environment=environment, stdout=PIPE)


def named(tree: ProcessTree, name: str) -> list[psutil.Process]:
    """The processes of a tree with a name."""
    found = []
    for one in tree.members():
        try:
            if name in one.name():
                found.append(one)
        except psutil.Error:
            continue  # it has ended
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_nodes_take_part_and_without_the_head_the_launch_ends_in_a_sentence(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    python = [sys.executable, "-c", LAUNCH, address, str(tmp_path)]
    place = {"env": {**os.environ, **environment}, "text": True, "stdout": subprocess.PIPE}
    head = ray_start(environment, "--head", "--port", address.partition(":")[2], "--include-dashboard", "false")
    with head:
        deadline = time.monotonic() + 120
        while not named(head, "raylet"):
            assert time.monotonic() < deadline, "the head does not start"
            time.sleep(0.5)
        time.sleep(5)
        with ray_start(environment, "--address", address):
            time.sleep(15)
            said = subprocess.run([*python, "6"], timeout=240, check=False, **place).stdout  # type: ignore[call-overload]
            assert said.splitlines()[-2:] == ["nodes 2", "trials 6 6"]
            running = subprocess.Popen([*python, "30"], **place)  # type: ignore[call-overload]
            assert running.stdout.readline() == "nodes 2\n"
            begun = tmp_path / "begun"
            before = len(begun.read_text().splitlines())
            while len(begun.read_text().splitlines()) < before + 3:
                time.sleep(0.2)
            (server,) = named(head, "gcs_server")
            server.kill()
            rest, _ = running.communicate(timeout=400)
    assert running.returncode == 2
    assert "is gone: what was measured is stored; launch again to continue" in rest
