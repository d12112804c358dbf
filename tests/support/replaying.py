"""A launch whose processes are replayed: what each would have measured is said by the test, and nothing is run."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from paretune.agent.measuring import noise_floor as _floor
from paretune.agent.results.results import Results
from paretune.agent.search import launch as launching
from paretune.agent.search.launch import launch
from paretune.agent.trial.executor import TrialResult
from paretune.agent.trial.process import Job
from paretune.objectives.evidence import evidence_words
from paretune.objectives.fingerprint import Fingerprint
from paretune.objectives.verdict import Verdict
from paretune.search_space import Configuration
from paretune.studies import Outcome, Records, Study, parse_study
from PIL import Image

from .replayed import fingerprint

UNET = {
    "class_name": "UNet2DConditionModel",
    "role": "denoiser",
    "dtype": "float32",
    "parameters_m": 1.0,
    "layers_per_block": 2,
    "fuses_qkv": True,
    "has_repeated_blocks": True,
}
PIPELINES = {
    "main": {
        "class_name": "StableDiffusionXLPipeline",
        "modules": {"unet": UNET},
        "largest_batch": 2,
        "largest_side_px": 64,
        "guided": True,
        "adapters": False,
    }
}


@dataclass
class World:
    """What the processes of a launch find."""

    folder: Path
    latency_ms: dict[str, float] = field(default_factory=dict)
    """By configuration, as it is printed; 1000 for what is not in it."""
    cold_start_s: float = 5.0
    memory_gib: dict[str, float] = field(default_factory=dict)
    speed: Callable[[], float] = lambda: 1.0
    """How many times as long everything takes now."""
    drift: dict[str, Callable[[int], float]] = field(default_factory=dict)
    """By configuration: the drift of so many pictures; 0.5 for what is not in it."""
    before: Callable[[Job, str], TrialResult | None] = lambda job, kind: None
    """Asked before each process, with its kind ("trial", "canary", "pictures", ...); may raise, or answer for it."""
    ran: list[tuple[str, str]] = field(default_factory=list)
    """(kind, configuration) of every process."""
    notes: list[str] = field(default_factory=list)

    @property
    def storage(self) -> str:
        """The database."""
        return f"sqlite:///{self.folder / 'paretune.db'}"

    def study(self, name: str, presets: list[str], **keys: Any) -> Study:
        """Of techniques without parameters, measured one by one."""
        request = {"name": "cat", "prompt": "a cat", "seed": 1, "width_px": 64, "height_px": 64, "steps": 5}
        pipeline = {"class": "StableDiffusionXLPipeline", "model": "someone/model", "dtype": "float32"}
        techniques: dict[str, Any] = {preset: {} for preset in ("channels_last", "fused_qkv", "deepcache")}
        content = {
            "schema": 1,
            "name": name,
            "device": "cpu",
            "workload": {"pipelines": {"main": pipeline}, "requests": [request]},
            "space": {"techniques": techniques, "presets": [[{preset: {}}] for preset in presets]},
            "torch_compile_baseline": False,
            "measurement": {"floor_processes": 5, "canary_every": 20},
            "finalists": {"count": 0},
            "quality": {"pictures": {"screen": 3, "front": 3, "finalists": 3}, "benign_floor": False},
            "budget": {"trials": 1 + len(presets)},
            **keys,
        }
        return parse_study(content, "study.yaml", self.folder)

    def launch(self, study: Study, **options: Any) -> Results:
        """Launch it, or go on with it."""
        return launch(
            study,
            storage=self.storage,
            on_event=lambda event: self.notes.append(event.text) if event.kind == "note" else None,
            **options,
        )

    def measured(self, study: str) -> int:
        """How many trials of a study are in the database."""
        return len(Records(self.storage).measurements(study))

    def run(self, job: Job) -> TrialResult:
        """What a process finds."""
        folder = Path(job.folder)
        kind = folder.name.split("-")[0]
        configuration = Configuration.from_dict(job.configuration)
        self.ran.append((kind, str(configuration)))
        answer = self.before(job, kind)
        return answer or TrialResult(
            outcome=Outcome.COMPLETE,
            measurements=self._measurements(job, folder, configuration),
            pipelines=PIPELINES,
            phases_s={"start": 0.1},
        )

    def _measurements(self, job: Job, folder: Path, configuration: Configuration) -> dict[str, Any]:
        name = str(configuration)
        latency_ms = self.latency_ms.get(name, 1000.0) * self.speed()
        shape = {"requests": ["cat"], "weight": 1.0, "samples_ms": [latency_ms] * 5, "n": 5, "median_ms": latency_ms}
        found = {
            "latency_ms": latency_ms,
            "latency_per_image_ms": latency_ms,
            "latency": [{**shape, "min_ms": latency_ms, "max_ms": latency_ms, "throttled": [], "stop": "interval"}],
            "peak_vram_gib": self.memory_gib.get(name, 2.0),
            "cold_start_s": self.cold_start_s,
            "first_call_ms": latency_ms,
            "energy_j": None,
        }
        if not job.judge:
            return found
        pictures = [*job.known_pictures]
        (folder / "pictures").mkdir(exist_ok=True)
        for request in job.plan["pictures"]:
            Image.new("RGB", (8, 8)).save(folder / "pictures" / f"{request}-0.png")
            pictures.append(
                {"file": f"{request}-0.png", "request": request, "metrics": {}, "flags": [], "broken": None}
            )
        drift = self.drift.get(name, lambda count: 0.5)(len(pictures)) if configuration.steps else 0.0
        verdict = next(v for v in Verdict if v is not Verdict.NOT_ASSESSED and drift <= v.drift_limit)
        judged = [{**picture, "drift": drift, "verdict": verdict, "schema_version": 2} for picture in pictures]
        quality = {
            "n": len(judged),
            "verdict": verdict,
            "drift": drift,
            "evidence": evidence_words([verdict] * len(judged), verdict, ["a cat"] * len(judged)),
            "pictures": judged,
            "first_broken": None,
            "not_assessed": {},
            "worst_metrics": {},
        }
        return {**found, "quality": quality, "drift": drift}


class _Executor:
    world: World

    def __init__(self, *_: Any) -> None:
        self.device = "cpu"
        self.fingerprint = Fingerprint.from_dict(fingerprint("cpu"))

    def __enter__(self) -> "_Executor":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, job: Job) -> TrialResult:
        return self.world.run(job)


def world_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """From now on, launches run in this world, and nobody waits."""
    world = World(folder)
    monkeypatch.setattr(_Executor, "world", world, raising=False)
    monkeypatch.setattr(launching, "Executor", _Executor)
    monkeypatch.setattr(launching, "cold_import_s", lambda classes: 5.0)
    monkeypatch.setattr(_floor, "CANARY_PAUSES_S", (0.0, 0.0, 0.0))
    return world
