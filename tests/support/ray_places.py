"""Places of Ray whose processes are not run: real actors, which say what each process would have measured."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paretune.agent.measuring.ray_place import PlaceActor
from paretune.agent.trial import Job, ProcessTree, TrialResult
from paretune.objectives.fingerprint import Fingerprint
from paretune.search_space import Configuration
from paretune.studies import Outcome, RunKind

from .machines import fingerprint
from .replaying import World

SCRIPT = "PARETUNE_TEST_PLACES"
"""Environment variable: the file in which a test says how the places behave."""


class Script:
    """How the places behave; read anew for every process."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def write(self, **settings: Any) -> None:
        """seconds: that a process takes; speed: by place, how many times as long; latency_ms: by configuration;
        broken: {configuration: what running it raises}; driver: by place; no_memory: configurations.
        """
        temporary = self._file.with_suffix(".new")
        temporary.write_text(json.dumps(settings))
        temporary.replace(self._file)

    def read(self) -> dict[str, Any]:
        """As it is now."""
        return dict(json.loads(self._file.read_text()))


class Replayed:
    """In the place of an Executor."""

    def __init__(self, place: int, scratch: Path) -> None:
        self.device = "cpu"
        self._place = str(place)
        self._script = Script(Path(os.environ[SCRIPT]))
        values = fingerprint("cpu")
        values["driver"] = self._script.read().get("driver", {}).get(self._place)
        self.fingerprint = Fingerprint.from_dict(values)
        takes = ["prompt", "width", "height", "num_inference_steps", "guidance_scale", "generator", "output_type"]
        self.interfaces = {"StableDiffusionXLPipeline": {"call": takes, "components": ["unet"]}}
        self._world = World(scratch)

    def run(self, job: Job) -> TrialResult:
        """What a process finds, after a while; notes that it was begun. A process does run meanwhile."""
        script = self._script.read()
        name = str(Configuration.from_dict(job.configuration))
        with Path(os.environ[SCRIPT]).with_name("begun").open("a") as begun:
            begun.write(json.dumps({"place": self._place, "configuration": name, "judge": job.judge}) + "\n")
        with ProcessTree(["sleep", "3600"]):
            time.sleep(script.get("seconds", 0.0))
        if (broken := script.get("broken", {}).get(name)) is not None:
            raise RuntimeError(broken)
        if name in script.get("no_memory", ()):
            return TrialResult(outcome=Outcome.OOM, reason="measure: out of memory")
        speed = script.get("speed", {}).get(self._place, 1.0)
        self._world.latency_ms = script.get("latency_ms", {})
        self._world.speed = lambda: speed
        if self.reads(job):
            (Path(job.folder) / "log.txt").write_text(f"{name} at place {self._place}\n")
        return self._world.run(RunKind.TRIAL if job.judge else RunKind.CANARY, job)

    @staticmethod
    def reads(job: Job) -> bool:
        """Whether the reference's pictures are where the job says."""
        return job.reference_pictures is None or any(Path(job.reference_pictures).glob("*.png"))

    def close(self) -> None:
        """Nothing runs."""


class ReplayedPlace(PlaceActor):
    """A place with such an executor."""

    def serve(
        self, device: str, classes: Sequence[str], deadlines_s: Mapping[str, float], host_memory_gib: float | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Nothing is started."""
        self._executor = Replayed(self._share.index, self._scratch)  # type: ignore[assignment]
        return self._executor.fingerprint.to_dict(), self._executor.interfaces  # type: ignore[union-attr]

    def import_s(self) -> float:
        """Nothing is imported."""
        return 5.0
