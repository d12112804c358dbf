"""A study that is replayed into a database, with pictures: nothing is run or timed."""

import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy
import optuna
from paretune.agent.results import TORCH_COMPILE, Results
from paretune.agent.trial import COLD_PHASES
from paretune.objectives.evidence import evidence_words
from paretune.objectives.verdict import Verdict
from paretune.search_space import Configuration, SearchSpace, apply_source
from paretune.studies import (
    SCHEMA_VERSION,
    Outcome,
    Records,
    RunKind,
    RunRecord,
    StudyRecord,
    parse_study,
    workload_key,
)
from PIL import Image
from sqlalchemy.orm import Session

from .machines import fingerprint

NAME = "replayed"
HOSTILE = "a cat</script><script>alert(1)</script> & \"quoted\" <img src=http://example.com/x onerror='alert(2)'>"
CACHED = Configuration.of({"channels_last": {}, "deepcache": {"interval": 3, "branch": 0}})
FASTER = Configuration.of({"deepcache": {"interval": 5, "branch": 0}})
SLICED = Configuration.of({"vae_slicing": {}})
FUSED = Configuration.of({"fused_qkv": {}})
BEATEN = Configuration.of({"deepcache": {"interval": 2, "branch": 1}})
TIED = Configuration.of({"channels_last": {}, "vae_slicing": {}, "deepcache": {"interval": 3, "branch": 0}})
TECHNIQUES: dict[str, Any] = {"channels_last": {}, "deepcache": {}, "fused_qkv": {}, "vae_slicing": {}}

PICTURES = ("cat-0.png", "dog-0.png", "cat~1-0.png", "dog~1-0.png")
MORE_PICTURES = (*PICTURES, "cat~2-0.png", "dog~2-0.png")
"""Of the finalists of an unsteady study."""
WORST_DRIFT_OF_MORE = 1.85

Kind = Literal["steady", "unsteady", "contradicted"]
FLOORS = {
    "steady": [(1000.0, 2.0), (1004.0, 2.0), (992.0, 2.01), (1007.0, 2.0), (997.0, 2.005)],
    "unsteady": [(1000.0, 2.0), (2350.0, 2.0), (760.0, 2.01), (1480.0, 2.0), (905.0, 2.005)],
}
"""Latency in ms and memory in GiB of each process of the unchanged reference."""
BLOCKS = {
    "steady": {
        0: (1001.0, 996.0, 1008.0, 1003.0, 999.0, 1005.0),
        1: (803.0, 799.0, 806.0, 798.0, 802.0, 801.0),
        2: (401.0, 404.0, 398.0, 403.0, 400.0, 399.0),
    },
    # The machine was calmer by then: all of it is faster than the trials were, and not by the same factor.
    "unsteady": {
        0: (641.0, 702.0, 625.0, 668.0, 655.0, 690.0),
        1: (548.0, 611.0, 530.0, 572.0, 566.0, 583.0),
        2: (372.0, 425.0, 365.0, 391.0, 384.0, 402.0),
    },
}
"""{trial: latency in ms, block by block}."""
FIRST_IMAGE_S = {0: 1.4, 1: 38.0, 2: 1.1}
"""By trial; the rest of a cold start is the same for all."""
CANARIES_MS = {"steady": (1004.0, 989.0), "contradicted": (1490.0, 1515.0)}
THREE_HOURS_AGO = (datetime.now(UTC) - timedelta(hours=3, minutes=5)).isoformat(timespec="seconds")


def url_of(folder: Path) -> str:
    """The storage of a study that was replayed into `folder`."""
    return f"sqlite:///{folder / 'paretune.db'}"


def quality(
    verdict: str, drift: float, psnr_db: float | None, files: tuple[str, ...] = PICTURES, worst: str | None = None
) -> dict[str, Any]:
    """Judged pictures; of what is near-lossless, another seed of the cat drifts most, unless `worst` says otherwise."""
    equal = psnr_db is None
    worst = worst or ("cat~1-0.png" if verdict == "near-lossless" else "dog-0.png")
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
        for file in files
    ]
    missing = {"lpips": "no weights given", "dreamsim": "no weights given"}
    prompts = [file.partition("-")[0].partition("~")[0] for file in files]
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
        # A call of the pass that splits it took longer than the timed ones.
        "stages": stages(1.1 * latency_ms, device),
        **({"gpu_busy": [{"requests": ["cat", "dog"], "busy_ms": 0.964 * latency_ms}]} if device == "cuda" else {}),
        "setup_peak_vram_gib": memory_gib + 1.5,
        "peak_vram_gib": memory_gib,
        "memory": {"source": "nvml-process" if device == "cuda" else "resident-set"},
        "cold_start_s": 5.5,
        "repeat_max_difference": 0.0,
        "quality": none_judged if drift is None else quality(verdict, drift, psnr_db),
        "drift": drift,
    }


def replay(
    folder: Path,
    *,
    kind: Kind = "steady",
    assessed: bool = True,
    side_px: int = 32,
    device: str = "cpu",
    trusted: bool = True,
    only: tuple[int, ...] | None = None,
    model: Path | None = None,
) -> Results:
    """A study with a reference, a torch.compile, a winner, one that breaks the limit, one beaten, one failure, one that
    was ended early, and one that another study measured and that ties with the winner.

    kind: "steady" is a good machine. "unsteady" has a noise floor far above 30 %, busy processors, no canaries, blocks
    whose milliseconds are not those of the trials, and more pictures of the finalists than of the others. In a
    "contradicted" one, canaries never find the reference where it was, and nothing is confirmed.
    trusted: with noise floor, reordering floor, canaries, confirming blocks, cold starts and ratings.
    only: the trials there are, by number; all by default.
    model: a folder with the model, for tests that run what is exported.
    """
    files = folder / "files" / NAME
    records = Records(url_of(folder))
    study = parse_study(_content(folder, assessed, side_px, kind != "unsteady", model), "study.yaml", folder)
    space = SearchSpace.of(TECHNIQUES)

    def complete(number: int, configuration: Configuration, *figures: Any, **also: Any) -> RunRecord:
        if not assessed:
            figures = (*figures[:2], "not-assessed", None, None)
        names = MORE_PICTURES if kind == "unsteady" and number in (0, 2) else PICTURES
        write_pictures(files / f"trial-{number:04d}" / "pictures", number, side_px, names)
        measurements = measured(*figures, device=device)
        if kind == "unsteady":
            measurements["machine"]["cpu"]["foreign_share"] = 0.4 + 0.05 * number
        return trial_run(folder, number, configuration, device, measurements=measurements, **also)

    early = complete(6, BEATEN, 900.0, 2.3, "near-lossless", 1.9, 35.5)
    early.measurements["dominated_by"] = 2
    early.measurements["latency"][0] |= {"n": 3, "interval": 0.07, "stop": "dominated"}
    del early.measurements["stages"]
    sliced = complete(4, SLICED, 1200.0, 2.2, "bit-exact", 0.0, None)
    sliced.measurements["latency"][0]["stop"] = "time"
    if kind == "steady":
        sliced.measurements["machine"]["cpu"]["foreign_share"] = 0.07
    log = "Traceback <most recent call last>\nRuntimeError: it broke"
    broke = {"outcome": Outcome.APPLY_ERROR, "reason": "apply: it <broke>", "log_tail": log}
    elsewhere = complete(7, TIED, 396.0, 2.2, "near-lossless", 1.62, 36.2, study="earlier", finished_at=THREE_HOURS_AGO)
    elsewhere.trial = 4
    trials = {
        0: complete(0, Configuration(), 1000.0, 2.0, "bit-exact", 0.0, None),
        1: complete(1, TORCH_COMPILE, 800.0, 2.5, "imperceptible", 0.4, 47.0),
        2: complete(2, CACHED, 400.0, 2.1, "near-lossless", 1.62, 36.2),
        3: complete(3, FASTER, 300.0, 2.1, "visible", 2.4, 21.0),
        4: sliced,
        5: trial_run(folder, 5, FUSED, device, **broke),
        6: early,
        7: elsewhere,
    }
    record = StudyRecord(
        name=NAME,
        import_s=5.0,
        schema_version=SCHEMA_VERSION,
        created_at="2026-05-04T13:07:00+00:00",
        study=study.model_dump(by_alias=True, mode="json"),
        workload_key=workload_key(study),
        fingerprint=fingerprint(device),
        files=str(files),
        space=space.to_dict(),
        left_out={"sdpa_kernel.unet=cudnn": "cudnn attention needs a CUDA device <here>"},
        pipelines={},
    )
    records.add_study(record, [trials.pop(0)])
    if trusted:
        for run_ in _floor_runs(kind, device) + _reordering_runs(device, assessed):
            run_.workload_key = record.workload_key
            records.add_run(run_)
    canaries_ms = CANARIES_MS.get(kind, ()) if trusted else ()
    for number, trial in trials.items():
        if only is not None and number not in only:
            continue
        if trial.study == NAME:
            records.add_run(trial)
        else:
            _use(records, trial, number)
        if number in (3, 6) and canaries_ms:
            for run_ in _canary_runs(kind, number, canaries_ms[0 if number == 3 else 1], device):
                records.add_run(run_)
    if trusted and kind != "contradicted":
        for run_ in _confirming_runs(kind, device, assessed):
            records.add_run(run_)
    if trusted and assessed:
        records.rate(NAME, 2, "cat-0.png", "same", "Ann <A.>", blind=True)
    return Results(records, NAME)


def ask_optuna(folder: Path) -> int:
    """Make Optuna's side of a replayed study, as a launch does; returns its id."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    names = Results(Records(url_of(folder)), NAME).study.optimised
    study = optuna.create_study(study_name=NAME, storage=url_of(folder), directions=["minimize"] * len(names))
    study.set_metric_names(names)
    return int(study._study_id)


def trial_run(folder: Path, number: int, configuration: Configuration, device: str, **known: Any) -> RunRecord:
    """A trial's own process; complete unless `outcome` says otherwise."""
    phases_s = {"start": 0.1, "load": 1.25, **({"measure": 7.5} if "measurements" in known else {})}
    return _record(
        kind=RunKind.TRIAL,
        trial=number,
        configuration=configuration.to_dict(),
        configuration_key=configuration.key,
        phases_s=phases_s,
        apply_py=apply_source(configuration),
        folder=str(folder / "files" / NAME / f"trial-{number:04d}"),
        **known,
    )


def run(kind: RunKind, trial: int, position: int, device: str, *, session: int = 0, **figures: Any) -> RunRecord:
    """A process beside the trials."""
    timed = {"latency": [], "machine": machine(device)} if "latency_ms" in figures else {}
    phases_s = {"start": 0.1, "load": 1.25, "measure": 3.0}
    if kind is RunKind.COLD_START:
        phases_s = {phase: figures.get(f"{phase}_s", 0.0) for phase in COLD_PHASES}
    return _record(
        kind=kind,
        trial=trial,
        session=session,
        position=position,
        measurements={**timed, **figures},
        phases_s=phases_s,
        finished_at=f"2026-05-04T13:{10 + session:02d}:00+00:00",
    )


def add(results: Results, *runs: RunRecord) -> Results:
    """Write more runs of the study; the same results, with them taken up."""
    for one in runs:
        results.records.add_run(one)
    return results.refresh()


def timed_again(results: Results, number: int, **figures: Any) -> Results:
    """Write that a trial was measured once more, with these figures instead of what it had."""
    trial = results.trial(number)
    known = trial.timing
    again = _record(
        kind=RunKind.TRIAL,
        trial=number,
        configuration=known.configuration,
        configuration_key=known.configuration_key,
        measurements={**trial.measurements, **figures},
        phases_s=dict(known.phases_s),
        folder=known.folder,
    )
    return add(results, again)


def write_pictures(folder: Path, number: int, side_px: int, names: tuple[str, ...] = PICTURES) -> None:
    """Noise that is another one for each trial."""
    folder.mkdir(parents=True)
    noise = numpy.random.default_rng(0).integers(0, 200, (side_px, side_px, 3), dtype=numpy.uint8)
    for name in names:
        Image.fromarray(noise + number).save(folder / name)


def _record(**known: Any) -> RunRecord:
    usual: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "workload_key": "w",
        "configuration": Configuration().to_dict(),
        "configuration_key": Configuration().key,
        "fingerprint_key": "f",
        "worker": "local",
        "study": NAME,
        "session": 0,
        "position": 0,
        "outcome": Outcome.COMPLETE,
        "reason": "",
        "log_tail": "",
        "measurements": {},
        "apply_py": "",
        "folder": "",
        "finished_at": "2026-05-04T13:09:00+00:00",
    }
    return RunRecord(**{**usual, **known})


def _use(records: Records, run_: RunRecord, number: int) -> None:
    """Let the study use a run of a study that is not replayed."""
    with Session(records.engine, expire_on_commit=False) as session, session.begin():
        session.add(run_)
    records.use_runs(NAME, number, [run_])


def _floor_runs(kind: Kind, device: str) -> list[RunRecord]:
    beside = FLOORS.get(kind, FLOORS["steady"])[1:]
    return [
        run(RunKind.FLOOR, 0, position, device, latency_ms=ms, peak_vram_gib=gib, cold_start_s=5.5 + 0.01 * position)
        for position, (ms, gib) in enumerate(beside)
    ]


def _reordering_runs(device: str, assessed: bool) -> list[RunRecord]:
    if not assessed:
        return []
    judged: dict[str, dict[str, Any]] = {
        "another attention kernel": {"n": 4, "verdict": "imperceptible", "drift": 0.62, "worst_metrics": {}},
        "guidance in two calls": {"n": 4, "verdict": "bit-exact", "drift": 0.0, "worst_metrics": {}},
    }
    runs = [
        run(RunKind.REORDERING, 0, position, device, variant=words, quality=said)
        for position, (words, said) in enumerate(judged.items())
    ]
    failed = run(RunKind.REORDERING, 0, 2, device, variant="twice the batch")
    failed.outcome, failed.reason = Outcome.OOM, "out of memory <here>"
    return [*runs, failed]


def _canary_runs(kind: Kind, after: int, latency_ms: float, device: str) -> list[RunRecord]:
    attempts = 3 if kind == "contradicted" else 1
    return [
        run(RunKind.CANARY, 0, position, device, session=after, latency_ms=latency_ms + position)
        for position in range(attempts)
    ]


def _confirming_runs(kind: Kind, device: str, assessed: bool) -> list[RunRecord]:
    """More pictures on an unsteady machine, then the blocks, then cold starts."""
    runs = []
    if kind == "unsteady" and assessed:
        for trial, judged in (
            (0, quality("bit-exact", 0.0, None, MORE_PICTURES)),
            (2, quality("near-lossless", WORST_DRIFT_OF_MORE, 35.9, MORE_PICTURES, worst="dog~2-0.png")),
        ):
            runs.append(run(RunKind.PICTURES, trial, 0, device, session=6, quality=judged))
    blocks = BLOCKS[kind]
    for position in range(6):
        for trial, latencies_ms in blocks.items():
            runs.append(run(RunKind.BLOCK, trial, position, device, session=1, latency_ms=latencies_ms[position]))
    return runs + [
        run(RunKind.COLD_START, trial, position, device, **cold_start(trial))
        for trial in blocks
        for position in range(3)
    ]


def _content(folder: Path, assessed: bool, side_px: int, canaries: bool, model: Path | None) -> dict[str, Any]:
    named = {"model": "someone/model"} if model is None else {"model": str(model), "dtype": "float32"}
    pipeline = {"class": "StableDiffusionXLPipeline", **named}
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
        "space": {"techniques": TECHNIQUES},
        "limits": {"verdict": "near-lossless"},
        "measurement": {"canary_every": 3 if canaries else 0},
        "price_per_gpu_hour": 2.5,
    }
