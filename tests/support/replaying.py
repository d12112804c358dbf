"""A launch whose processes are not run: a runner that says what each would have measured, as the test has it."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from paretune.agent.measuring import machine_drift
from paretune.agent.results import Results
from paretune.agent.search import launch
from paretune.agent.trial import Job, TrialResult, write_trial_folder
from paretune.objectives.evidence import evidence_words
from paretune.objectives.fingerprint import Fingerprint
from paretune.objectives.verdict import Verdict
from paretune.search_space import Configuration
from paretune.studies import Outcome, Records, RunKind, Study, parse_study
from PIL import Image

from .machines import fingerprint
from .replayed import machine


def drawing(brighter: tuple[int, int, int] = (0, 0, 0)) -> Image.Image:
    """A picture of 64 px that shows something, with so many levels more in each channel."""
    slope = Image.linear_gradient("L").resize((64, 64))
    return Image.merge("RGB", [slope.point([level // 2 + more for level in range(256)]) for more in brighter])


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
    """What the processes of a launch find; a runner, to be given to a launch."""

    folder: Path
    latency_ms: dict[str, float] = field(default_factory=dict)
    """By configuration, as it is printed; 1000 for what is not in it."""
    cold_start_s: float = 5.0
    cold_starts_s: dict[str, float] = field(default_factory=dict)
    """By configuration; `cold_start_s` for what is not in it."""
    memory_gib: dict[str, float] = field(default_factory=dict)
    """By configuration; `usual_memory_gib` for what is not in it."""
    usual_memory_gib: float = 2.0
    speed: Callable[[], float] = lambda: 1.0
    """How many times as long everything takes now."""
    drift: dict[str, Callable[[int], float]] = field(default_factory=dict)
    """By configuration: the drift of so many pictures; 0.5 for what is not in it."""
    before: Callable[[Job, str], TrialResult | None] = lambda job, kind: None
    """Asked before each process, with its kind ("trial", "canary", "pictures", ...); may raise, or answer for it."""
    ran: list[tuple[str, str]] = field(default_factory=list)
    """(kind, configuration) of every process."""
    notes: list[str] = field(default_factory=list)
    device: str = "cpu"
    fingerprint: Fingerprint = field(default_factory=lambda: Fingerprint.from_dict(fingerprint("cpu")))

    @property
    def storage(self) -> str:
        """The database."""
        return f"sqlite:///{self.folder / 'paretune.db'}"

    def study(self, name: str, presets: list[str], **keys: Any) -> Study:
        """Of techniques without parameters, measured one by one."""
        request = {"name": "cat", "prompt": "a cat", "seed": 1, "width_px": 64, "height_px": 64, "steps": 5}
        pipeline = {"class": "StableDiffusionXLPipeline", "model": "someone/model", "dtype": "float32"}
        techniques: dict[str, Any] = {preset: {} for preset in ("channels_last", "fused_qkv", "deepcache")}
        content: dict[str, Any] = {
            "schema": 1,
            "name": name,
            "device": "cpu",
            "workload": {"pipelines": {"main": pipeline}, "requests": [request]},
            "space": {"techniques": techniques, "presets": [[{preset: {}}] for preset in presets]},
            "torch_compile_baseline": False,
            "measurement": {"floor_processes": 5, "canary_every": 20},
            "finalists": {"count": 0},
            "quality": {"pictures": {"screen": 3, "front": 3, "finalists": 3}, "reordering_floor": False},
            "budget": {"trials": 1 + len(presets)},
            "sampler": {},
            **keys,
        }
        # What is measured is what a test names, and what Optuna draws.
        content["space"] = {"recipes": False, **content["space"]}
        content["sampler"] = {"guided": False, **content["sampler"]}
        return parse_study(content, "study.yaml", self.folder)

    def launch(self, study: Study, **options: Any) -> Results:
        """Launch it, or go on with it."""
        return launch(
            study,
            storage=self.storage,
            runner=self,
            on_event=lambda event: self.notes.append(event.text) if event.kind == "note" else None,
            **options,
        )

    def measured(self, study: str) -> int:
        """How many trials of a study are in the database."""
        return len({one.trial for one in Records(self.storage).runs(study) if one.run.kind == RunKind.TRIAL})

    def places(self) -> list[str]:
        """One process at a time."""
        return ["local"]

    def import_s(self) -> float:
        """Nothing is imported."""
        return 5.0

    def cold_start(self, folder: Path, timeout_s: float) -> TrialResult:
        """As long as the trial's own; with compiled code a second longer than anything else."""
        name = str(Configuration.from_yaml((folder / "configuration.yaml").read_text()))
        loaded = (folder / "loaded").exists()
        self.ran.append(("cold start with code" if loaded else "cold start", name))
        total_s = self.cold_start_s + 1 if loaded else self.cold_starts_s.get(name, self.cold_start_s)
        phases = {"interpreter_s": 0.1, "import_s": 3.9, "load_s": 2.0, "apply_s": 0.5, "first_image_s": total_s - 4.5}
        return TrialResult(outcome=Outcome.COMPLETE, measurements={**phases, "cold_start_s": total_s})

    @contextmanager
    def with_compiled_code(self, folder: Path, packages: Sequence[str], timeout_s: float) -> Iterator[Path]:
        """A copy that cold_start() knows again."""
        copy = self.folder / "with-code"
        shutil.copytree(folder, copy)
        (copy / "loaded").touch()
        yield copy
        shutil.rmtree(copy)

    def close(self) -> None:
        """Nothing runs."""

    def submit(self, kind: RunKind, job: Job, place: str | None = None) -> "Future[TrialResult]":
        """Answered at once; what a process raises, a Ctrl-C say, is raised here."""
        write_trial_folder(Path(job.folder), job.configuration, job.workload, job.apply_py)
        future: Future[TrialResult] = Future()
        future.set_result(self.run(kind, job))
        return future

    def run(self, kind: str, job: Job) -> TrialResult:
        """What a process finds."""
        folder = Path(job.folder)
        configuration = Configuration.from_dict(job.configuration)
        self.ran.append((str(kind), str(configuration)))
        answer = self.before(job, str(kind))
        return answer or TrialResult(
            outcome=Outcome.COMPLETE,
            measurements=self._measurements(job, folder, configuration),
            pipelines=PIPELINES,
            phases_s={"start": 0.1},
        )

    def _measurements(self, job: Job, folder: Path, configuration: Configuration) -> dict[str, Any]:
        name = str(configuration)
        latency_ms = self.latency_ms.get(name, 1000.0) * self.speed()
        quiet: dict[str, Any] = {"interval": 0.0, "throttled": [], "throttled_ms": []}
        shape = {"requests": ["cat"], "weight": 1.0, "samples_ms": [latency_ms] * 5, "n": 5, "median_ms": latency_ms}
        found = {
            "latency_ms": latency_ms,
            "latency_per_image_ms": latency_ms,
            "latency": [{**shape, "min_ms": latency_ms, "max_ms": latency_ms, "stop": "interval", **quiet}],
            "peak_vram_gib": self.memory_gib.get(name, self.usual_memory_gib),
            "cold_start_s": self.cold_starts_s.get(name, self.cold_start_s),
            "first_call_ms": latency_ms,
            "energy_j": None,
            "machine": machine("cpu"),
            "memory": {"source": "resident-set"},
            "setup_peak_vram_gib": 2.0,
            "repeat_max_difference": 0.0,
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


def world_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world in which nobody waits between a canary and the next."""
    monkeypatch.setattr(machine_drift, "PAUSES_S", (0.0, 0.0, 0.0))
    return World(folder)
