"""The places of Ray: on this machine, where Ray is started for one launch, or of a cluster that is there already."""

import json
import os
import secrets
import select
import shutil
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from ...studies import UserError
from ..trial import PIPE, ProcessTree, detect_device, tail_of
from .ray_place import Described, PlaceActor, Share, source_digest

START_S = 120.0
"""Ray takes five seconds on a quiet machine."""
PLACE_S = 300.0
"""Until a place answers: a worker has to import paretune, maybe from a network disk."""
CLOSE_S = 15.0
HEAD = Path(__file__).with_name("ray_head.py")


@dataclass(frozen=True)
class Place:
    """An actor, and where it is."""

    name: str
    node: str
    actor: Any
    share: Share


class Cluster:
    """A connection to Ray, and one place per GPU; without GPUs places that share the cores of a machine."""

    def __init__(
        self,
        *,
        address: str | None = None,
        workers: int | None = None,
        device: str = "auto",
        actor: type[PlaceActor] = PlaceActor,
    ) -> None:
        """Start Ray on this machine, or join the cluster at `address`, and start the places.

        workers: at most so many places; by default one per GPU that nobody uses, or one per node without GPUs.
        device: as in a study file. actor: what runs at a place. Raises UserError without Ray, when it cannot be
        reached, or has no such places.
        """
        self._head: ProcessTree | None = None
        self._folder: Path | None = None
        self._actor_class = actor
        local = address is None
        if local:
            _own_token()
        ray = _ray()
        try:
            self.device = detect_device(device) if local else device
            self.address = self._start(workers or 1) if address is None else address
            self._connect(ray, self.address)
            self.gcs = str(ray.get_runtime_context().gcs_address)
            if self.device == "auto":
                self.device = "cuda" if ray.cluster_resources().get("GPU", 0) else "cpu"
            self.places = self._open(ray, workers)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the places; Ray too, where it was started here."""
        ray = _ray()
        places = getattr(self, "places", [])
        if places and self.answers():
            with suppress(Exception):  # one that hangs, or is gone: it is killed
                ray.get([place.actor.close.remote() for place in places], timeout=CLOSE_S)
            for place in places:
                ray.kill(place.actor)
        ray.shutdown()
        if self._head is not None:
            self._head.end()
            self._head = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def answers(self) -> bool:
        """Whether the head of the cluster can be reached."""
        host, _, port = self.gcs.rpartition(":")
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=2):
                return True
        except OSError:
            return False

    def revive(self, place: Place) -> Place | None:
        """A new actor in the place of one that is gone; None where its GPU, or its node, cannot be had any more."""
        ray = _ray()
        actor = self._actor(ray, place.share, place.node)
        try:
            described = ray.get(actor.open.remote(place.share, self.device), timeout=PLACE_S)
        except Exception:  # whatever Ray says: there is no such place now
            ray.kill(actor)
            return None
        if described.name != place.name.removesuffix(f"-{place.node[:6]}"):
            ray.kill(actor)
            return None
        return replace(place, actor=actor)

    def alive(self, wanted: Sequence[Place]) -> list[Place]:
        """These places, those that were lost meanwhile revived; without those that cannot be.

        Raises UserError when none is left.
        """
        ray = _ray()
        found = []
        for place, asked in [(place, place.actor.ping.remote()) for place in wanted]:
            try:
                ray.get(asked, timeout=PLACE_S)
                found.append(place)
            except Exception:  # whatever Ray says
                if (revived := self.revive(place)) is not None:
                    self.put(revived)
                    found.append(revived)
        if not found:
            raise UserError("no place of Ray is left")
        return found

    def put(self, revived: Place) -> None:
        """From now on it is the place of that name."""
        self.places = [revived if one.name == revived.name else one for one in self.places]

    def _start(self, workers: int) -> str:
        """Start Ray below a keeper; its address."""
        # Sockets lie in it, whose paths may not be long.
        self._folder = Path(tempfile.mkdtemp(prefix="prt-", dir="/tmp"))
        log = self._folder / "head.log"
        command = [sys.executable, "-P", str(HEAD), str(max(workers, os.cpu_count() or 1)), str(self._folder)]
        with log.open("wb") as stderr:
            self._head = ProcessTree(command, stdin=PIPE, stdout=PIPE, stderr=stderr)
        deadline, said = time.monotonic() + START_S, b""
        while b"\n" not in said:
            ready, _, _ = select.select([self._head.stdout], [], [], max(0.0, deadline - time.monotonic()))
            received = os.read(self._head.stdout.fileno(), 65536) if ready else b""
            if not received:
                raise UserError(f"Ray could not be started on this machine: {' '.join(tail_of(log, 300).split())}")
            said += received
        return str(json.loads(said.splitlines()[0])["address"])

    def _connect(self, ray: Any, address: str) -> None:
        if "://" in address:
            raise UserError(
                f"--ray {address}: give the address of the head itself (HOST:6379, or auto on one of its nodes)"
            )
        try:
            ray.init(
                address=address,
                namespace="paretune",
                ignore_reinit_error=True,
                log_to_driver=False,
                configure_logging=False,
            )
        except Exception as error:  # Ray has no class for it
            text = " ".join(str(error).split())[:300]
            # Ray itself uses its token only where it finds the cluster by itself ("auto").
            hint = "" if "RAY_AUTH_MODE" in os.environ else "; if the cluster has a token, RAY_AUTH_MODE=token uses it"
            raise UserError(f"the Ray cluster at {address} cannot be joined: {text}{hint}") from None

    def _open(self, ray: Any, workers: int | None) -> list[Place]:
        shares = self._shares(ray, workers)
        threads = os.environ.get("OMP_NUM_THREADS")
        if self._head is not None and threads is not None and threads.isdecimal():
            shares = [(node, replace(share, threads=int(threads))) for node, share in shares]
        actors = [(self._actor(ray, share, node), share) for node, share in shares]
        places = []
        for actor, share in actors:
            try:
                found: Described = ray.get(actor.open.remote(share, self.device), timeout=PLACE_S)
            except Exception as error:
                text = " ".join(str(error).split())[-300:]
                raise UserError(f"a place of Ray could not be started: {text}") from None
            if found.code != source_digest():
                raise UserError(f"{found.name} has another version of paretune than this machine: install the same one")
            places.append(Place(found.name, found.node, actor, share))
        names = Counter(place.name for place in places)
        return [replace(one, name=f"{one.name}-{one.node[:6]}") if names[one.name] > 1 else one for one in places]

    def _shares(self, ray: Any, workers: int | None) -> list[tuple[str | None, Share]]:
        """(node, share) of every place that is wanted; a GPU's node is chosen by Ray."""
        nodes = [node for node in ray.nodes() if node["Alive"]]
        if self.device.startswith("cuda"):
            free = int(ray.available_resources().get("GPU", 0))
            if free < (workers or 1):
                raise UserError(
                    f"{workers or 1} GPUs are wanted, and {free} of the {int(ray.cluster_resources().get('GPU', 0))} "
                    f"{'of this machine' if self._head is not None else 'of the cluster'} are free"
                )
            most = max(int(node["Resources"].get("GPU", 0)) for node in nodes)
            here = workers if self._head is not None and workers else most
            return [(None, Share(index, here)) for index in range(workers or free)]
        wanted = workers or len(nodes)
        on = [nodes[index % len(nodes)] for index in range(wanted)]
        hosts = Counter(node["NodeManagerHostname"] for node in on)
        found: list[tuple[str | None, Share]] = []
        seen = Counter[str]()
        for node in on:
            host = node["NodeManagerHostname"]
            found.append((str(node["NodeID"]), Share(seen[host], hosts[host])))
            seen[host] += 1
        return found

    def _actor(self, ray: Any, share: Share, node: str | None) -> Any:
        """One that has a GPU to itself; on the CPU, one of the slots that Ray counts."""
        options: dict[str, Any] = {"num_cpus": 1, "max_concurrency": 2, "max_restarts": 0}
        if self.device.startswith("cuda"):
            options["num_gpus"] = 1
        if node is not None:
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=False)
        return ray.remote(self._actor_class).options(**options).remote()


def _own_token() -> None:
    """Let nobody else on this machine join, and run code as this user."""
    os.environ.update({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)})
    if sys.modules.get("ray") is not None:
        # Imported before, in a notebook say, it has read other settings.
        from ray import _raylet

        native: Any = _raylet
        native.Config.initialize("")
        native.AuthenticationTokenLoader.instance().reset_cache()


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise UserError("--workers and --ray need Ray: pip install 'paretune[ray]'") from None
    return ray
