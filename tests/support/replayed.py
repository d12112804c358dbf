"""A study that is replayed into a database, in our tables and in Optuna's, with pictures: nothing is run or timed."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy
from paretune.agent.results.results import TORCH_COMPILE, Results
from paretune.agent.search.sampler import Teller, optuna_study
from paretune.objectives.evidence import evidence_words
from paretune.objectives.fingerprint import PACKAGES
from paretune.objectives.noise_floor import NoiseFloor
from paretune.objectives.verdict import Verdict
from paretune.search_space import Configuration
from paretune.studies import MeasurementRecord, Outcome, Records, RunRecord, StudyRecord, parse_study
from PIL import Image

NAME = "replayed"
HOSTILE = "a cat</script><script>alert(1)</script> & \"quoted\" <img src=http://example.com/x onerror='alert(2)'>"
CACHED = Configuration.of({"channels_last": {}, "deepcache": {"interval": 3, "branch": 0}})
FASTER = Configuration.of({"deepcache": {"interval": 5, "branch": 0}})
SLICED = Configuration.of({"vae_slicing": {}})
FUSED = Configuration.of({"fused_qkv": {}})
BEATEN = Configuration.of({"deepcache": {"interval": 2, "branch": 1}})
TIED = Configuration.of({"channels_last": {}, "vae_slicing": {}, "deepcache": {"interval": 3, "branch": 0}})
PICTURES = ("cat-0.png", "dog-0.png", "cat~1-0.png", "dog~1-0.png")
FLOOR = [(1000.0, 2.0), (1004.0, 2.0), (992.0, 2.01), (1007.0, 2.0), (997.0, 2.005)]
"""Latency in ms and memory in GiB of each process of the unchanged reference."""
BLOCKS = {  # trial: latency in ms, block by block
    0: (1001.0, 996.0, 1008.0, 1003.0, 999.0, 1005.0),
    1: (803.0, 799.0, 806.0, 798.0, 802.0, 801.0),
    2: (401.0, 404.0, 398.0, 403.0, 400.0, 399.0),
}
FIRST_IMAGE_S = {0: 1.4, 1: 38.0, 2: 1.1}
"""By trial; the rest of a cold start is the same for all."""
THREE_HOURS_AGO = (datetime.now(UTC) - timedelta(hours=3, minutes=5)).isoformat(timespec="seconds")


def url_of(folder: Path) -> str:
    """The storage of a study that was replayed into `folder`."""
    return f"sqlite:///{folder / 'paretune.db'}"


def fingerprint(device: str) -> dict[str, Any]:
    """A machine that does not exist, with names that would do harm if they were not escaped."""
    gpu = {"compute_capability": "9.0", "memory_gib": 79.6, "driver": "580.1", "cuda": "13.0"}
    return {
        "schema_version": 1,
        "device_kind": device,
        "device_name": "Example <GPU> 9000" if device == "cuda" else "Example <CPU> 9000",
        **(gpu if device == "cuda" else dict.fromkeys(gpu)),
        "python": "3.11.9",
        "platform": "Linux-x86_64",
        "cpu_model": "Example <CPU> 9000",
        "cpu_threads": 4,
        "packages": {**dict.fromkeys(PACKAGES), "torch": "2.13.0"},
    }


def quality(verdict: str, drift: float, psnr_db: float | None) -> dict[str, Any]:
    """Four judged pictures; of what is near-lossless, another seed of the cat drifts most."""
    equal = psnr_db is None
    worst = "cat~1-0.png" if verdict == "near-lossless" else "dog-0.png"
    metrics = {
        "max_abs_difference_lsb": 0.0 if equal else 9.0,
        "psnr_db": psnr_db,
        "worst_tile_psnr_db": psnr_db,
        "ssim": 0.98,
        "ssimulacra2": 100.0 if equal else 84.25,
        "delta_e_mean": 0.71,
    }
    pictures = [
        {
            "schema_version": 2,
            "file": file,
            "request": file.removesuffix("-0.png"),
            "metrics": metrics,
            "verdict": verdict,
            "drift": drift if file == worst else 0.9 * drift,
            "flags": [],
            "broken": None,
        }
        for file in PICTURES
    ]
    missing = {"lpips": "no weights given", "dreamsim": "no weights given"}
    prompts = [file.partition("-")[0].partition("~")[0] for file in PICTURES]
    evidence = evidence_words([Verdict(verdict)] * len(pictures), Verdict(verdict), prompts)
    known = {"n": len(pictures), "verdict": verdict, "drift": drift, "evidence": evidence, "first_broken": None}
    return {**known, "pictures": pictures, "quality": {}, "not_assessed": missing}


def machine(device: str, foreign_share: float = 0.01) -> dict[str, Any]:
    """objectives.measuring.machine_state.MachineState's summary of a quiet machine."""
    on_gpu = device == "cuda"
    return {
        "samples": 50,
        "interval_ms": 100.0,
        "sm_clock_mhz": {"min": 1755, "median": 1980, "max": 1980} if on_gpu else None,
        "gpu_utilization_percent": 96.4 if on_gpu else None,
        "clock_event_reasons": {"power cap": 0.31} if on_gpu else {},
        "foreign_gpu_processes": [],
        "cpu": {"load_1min": 1.2, "frequency_mhz": 3000.0, "foreign_share": foreign_share},
    }


def stages(latency_ms: float, device: str) -> list[dict[str, Any]]:
    """objectives.measuring.stages.StageTimer's summary for the one shape of request; four steps."""
    shares = {"text_encoding": 0.03, "denoising": 0.8, "vae_decode": 0.12, "post_processing": 0.02}
    on_gpu = device == "cuda"
    found: dict[str, dict[str, Any]] = {
        name: {"wall_ms": share * latency_ms * (0.1 if on_gpu else 1), "gpu_ms": share * latency_ms if on_gpu else None}
        for name, share in shares.items()
    }
    found["denoising"] |= {"steps": 4, "step_ms": [0.2 * latency_ms] * 4, "median_step_ms": 0.2 * latency_ms}
    return [{"requests": ["cat", "dog"], "total_ms": latency_ms, "stages": found, "other_ms": 0.03 * latency_ms}]


def cold_start(trial: int) -> dict[str, float]:
    """The seconds of a cold process; loading the weights is not in the total."""
    seconds = {"interpreter_s": 0.1, "import_s": 4.2, "apply_s": 0.3, "first_image_s": FIRST_IMAGE_S[trial]}
    return {**seconds, "load_s": 2.5, "cold_start_s": round(sum(seconds.values()), 3)}


def measured(
    latency_ms: float, memory_gib: float, verdict: str, drift: float | None, psnr_db: float | None, device: str
) -> dict[str, Any]:
    """Everything that a trial writes down."""
    shape = {
        "requests": ["cat", "dog"],
        "weight": 2.0,
        "samples_ms": [latency_ms * factor for factor in (1.0, 0.97, 1.04, 1.0, 1.0)],
        "n": 5,
        "median_ms": latency_ms,
        "min_ms": latency_ms * 0.97,
        "max_ms": latency_ms * 1.04,
        "interval": 0.018,
        "stop": "interval",
        "throttled_ms": [],
        "throttled": [],
    }
    none_judged = {"verdict": "not-assessed", "drift": None, "pictures": [], "first_broken": None}
    return {
        "latency_ms": latency_ms,
        "latency_per_image_ms": latency_ms,
        "latency": [shape],
        "energy_j": 0.41 * latency_ms if device == "cuda" else None,
        "machine": machine(device),
        "stages": stages(latency_ms, device),
        "setup_peak_vram_gib": memory_gib + 1.5,
        "peak_vram_gib": memory_gib,
        "memory": {"source": "nvml-process" if device == "cuda" else "resident-set"},
        "cold_start_s": 5.5,
        "repeat_max_difference": 0.0,
        "quality": none_judged if drift is None else quality(verdict, drift, psnr_db),
        "drift": drift,
    }


def replay(
    folder: Path, *, assessed: bool = True, side_px: int = 32, device: str = "cpu", trusted: bool = True
) -> Results:
    """A study with a reference, a torch.compile, a winner, one that breaks the limit, one beaten, one failure, one that
    was ended early, and one that another study measured and that ties with the winner.

    trusted: with noise floor, benign floor, canaries, confirming blocks, cold starts and ratings.
    """
    files = folder / "files" / NAME
    records = Records(url_of(folder))
    study = parse_study(_content(folder, assessed, side_px), "study.yaml", folder)

    def complete(number: int, configuration: Configuration, *figures: Any, **also: Any) -> MeasurementRecord:
        if not assessed:
            figures = (*figures[:2], "not-assessed", None, None)
        write_pictures(files / f"trial-{number:04d}" / "pictures", number, side_px)
        measurements = measured(*figures, device=device)
        if trusted and number in BLOCKS:
            cold = cold_start(number)
            measurements |= {"cold_start": {"n": 3, **cold}, "cold_start_measured_s": cold["cold_start_s"]}
        return _record(number, configuration, Outcome.COMPLETE, device, measurements=measurements, **also)

    records.add_study(
        StudyRecord(
            name=NAME,
            import_s=5.0,
            schema_version=2,
            created_at="2026-05-04T13:07:00+00:00",
            study=study.model_dump(by_alias=True, mode="json"),
            workload_key="w",
            fingerprint=fingerprint(device),
            files=str(files),
            space={},
            left_out={"sdpa_kernel.unet=cudnn": "cudnn attention needs a CUDA device <here>"},
            pipelines={},
        ),
        complete(0, Configuration(), 1000.0, 2.0, "bit-exact", 0.0, None),
    )
    early = complete(6, BEATEN, 900.0, 2.3, "near-lossless", 1.9, 35.5)
    early.measurements["dominated_by"] = 2
    early.measurements["latency"][0] |= {"n": 3, "interval": 0.07, "stop": "dominated"}
    del early.measurements["stages"]
    sliced = complete(4, SLICED, 1200.0, 2.2, "bit-exact", 0.0, None)
    sliced.measurements["machine"]["cpu"]["foreign_share"] = 0.07
    sliced.measurements["latency"][0]["stop"] = "time"
    log = "Traceback <most recent call last>\nRuntimeError: it broke"
    elsewhere = {"study": "earlier", "trial": 4, "finished_at": THREE_HOURS_AGO}
    for record in (
        complete(1, TORCH_COMPILE, 800.0, 2.5, "imperceptible", 0.4, 47.0),
        complete(2, CACHED, 400.0, 2.1, "near-lossless", 1.62, 36.2),
        complete(3, FASTER, 300.0, 2.1, "visible", 2.4, 21.0),
        sliced,
        _record(5, FUSED, Outcome.APPLY_ERROR, device, reason="apply: it <broke>", log_tail=log),
        early,
        complete(7, TIED, 396.0, 2.2, "near-lossless", 1.62, 36.2, reused_from=elsewhere),
    ):
        records.add_measurement(record)
    if trusted:
        _make_trusted(records, assessed, device)
    return Results(records, NAME)


def tell_optuna(folder: Path) -> None:
    """Tell Optuna of a replayed study, as a launch does."""
    records = Records(url_of(folder))
    study = Results(records, NAME).study
    told = optuna_study(study, records.url, 0)
    teller = Teller(study, told, folder / "files" / NAME)
    for record in records.measurements(NAME):
        trial = told.ask()
        for name in ("channels_last", "deepcache"):
            trial.suggest_categorical(name, ["off", "on"])
        teller.tell(trial, record)


def _content(folder: Path, assessed: bool, side_px: int) -> dict[str, Any]:
    pipeline = {"class": "StableDiffusionXLPipeline", "model": "someone/model"}
    if not assessed:
        (folder / "config").mkdir()
        (folder / "config" / "model_index.json").write_text("{}")
        pipeline |= {"weights": "random", "config": "config"}
    size = {"width_px": side_px, "height_px": side_px, "steps": 4}
    requests = [{"name": "cat", "prompt": HOSTILE, **size}, {"name": "dog", "prompt": "a dog", **size}]
    return {
        "schema": 1,
        "name": NAME,
        "description": "Cats & <dogs>",
        "workload": {"pipelines": {"main": pipeline}, "requests": requests},
        "limits": {"verdict": "near-lossless"},
        "price_per_gpu_hour": 2.5,
    }


def _record(
    number: int, configuration: Configuration, outcome: Outcome, device: str, **known: Any
) -> MeasurementRecord:
    return MeasurementRecord(
        schema_version=2,
        apply_py="",
        study=NAME,
        trial=number,
        workload_key="w",
        configuration_key=configuration.key,
        configuration=configuration.to_dict(),
        fingerprint_key="f",
        fingerprint=fingerprint(device),
        outcome=outcome,
        reason=known.get("reason", ""),
        log_tail=known.get("log_tail", ""),
        measurements=known.get("measurements", {}),
        phases_s={"start": 0.1, "load": 1.25, **({"measure": 7.5} if "measurements" in known else {})},
        finished_at="2026-05-04T13:09:00+00:00",
        reused_from=known.get("reused_from"),
    )


def _make_trusted(records: Records, assessed: bool, device: str) -> None:
    floor = NoiseFloor.of([{"latency_ms": ms, "peak_vram_gib": gib} for ms, gib in FLOOR])
    variants: dict[str, Any] = {
        "another attention kernel": {"n": 4, "verdict": "imperceptible", "drift": 0.62, "worst_metrics": {}},
        "guidance in two calls": {"n": 4, "verdict": "bit-exact", "drift": 0.0, "worst_metrics": {}},
        "twice the batch": {"outcome": "oom", "reason": "out of memory <here>"},
    }
    benign = {"schema_version": 1, "variants": variants, "drift": 0.62} if assessed else None
    records.update_study(NAME, noise_floor=floor.to_dict(), benign_floor=benign)
    for position, (latency_ms, memory_gib) in enumerate(FLOOR[1:]):
        records.add_run(run("floor", 0, position, device, latency_ms=latency_ms, peak_vram_gib=memory_gib))
    records.add_run(run("canary", 0, 0, device, session=3, latency_ms=1004.0))
    records.add_run(run("canary", 0, 0, device, session=6, latency_ms=989.0))
    for position in range(6):
        for trial, latencies_ms in BLOCKS.items():
            records.add_run(run("block", trial, position, device, session=1, latency_ms=latencies_ms[position]))
    for trial in BLOCKS:
        for position in range(3):
            records.add_run(run("cold-start", trial, position, device, **cold_start(trial)))
    if assessed:
        records.rate(NAME, 2, "cat-0.png", "same", "Ann <A.>")


def run(kind: str, trial: int, position: int, device: str, *, session: int = 0, **figures: float) -> RunRecord:
    """A process beside the trials."""
    timed = {"latency": [], "machine": machine(device)} if "latency_ms" in figures else {}
    return RunRecord(
        schema_version=2,
        study=NAME,
        kind=kind,
        session=session,
        position=position,
        trial=trial,
        configuration_key="c",
        fingerprint_key="f",
        outcome=Outcome.COMPLETE,
        reason="",
        measurements={**timed, **figures},
        phases_s={} if kind == "cold-start" else {"start": 0.1, "load": 1.25, "measure": 3.0},
        finished_at=f"2026-05-04T13:{10 + session:02d}:00+00:00",
    )


def write_pictures(folder: Path, number: int, side_px: int, names: tuple[str, ...] = PICTURES) -> None:
    """Noise that is another one for each trial."""
    folder.mkdir(parents=True)
    noise = numpy.random.default_rng(0).integers(0, 200, (side_px, side_px, 3), dtype=numpy.uint8)
    for name in names:
        Image.fromarray(noise + number).save(folder / name)
