"""What a configuration gives is looked at in every call: broken pictures, other pictures, and pictures from a cache."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from paretune.objectives.measuring import InvalidOutputError, Made, Phases, Plan, measure_configuration
from paretune.objectives.measuring.visits import Visits
from support.product import product_trial, request_of

APPLY_A_CACHE = """kept, main = {}, pipelines["main"]
    make = __import__("sys").modules["product"].make
    def serve(pipelines, request):
        if request.name not in kept:
            kept[request.name] = make(pipelines, request)
        return kept[request.name]
    main.serve = serve"""
PLAN = Plan(calls=5, most_calls=5, warm_up_calls=1, memory=False, stages=False, pictures=("cat",))


def measured(folder: Path, run: str, apply: str = "pass", **keys: Any) -> tuple[dict[str, Any], Made]:
    """Measure a workload of which run() is given, and the body of apply(pipelines); keys: of its request."""
    trial = product_trial(folder, run, apply, [request_of(**keys)])
    return measure_configuration(trial, "cpu", plan=PLAN, phases=Phases(lambda name: None))


def test_a_workload_that_keeps_the_contract_is_measured_and_repeats_itself(tmp_path: Path) -> None:
    measurements, made = measured(tmp_path, "return make(pipelines, request)")
    assert measurements["repeat_max_difference"] == 0
    assert (list(made.pictures), made.repeats) == (["cat"], {})


def test_values_that_are_not_finite_in_a_later_call_end_the_measurement(tmp_path: Path) -> None:
    spoil = "return make(pipelines, request) * (float('nan') if len(CALLS) == 5 else 1)"
    with pytest.raises(InvalidOutputError, match=r"request cat gave .* 3072 of 3072 values are NaN or infinite"):
        measured(tmp_path, spoil)


def test_another_picture_in_a_later_call_is_kept_beside_the_first(tmp_path: Path) -> None:
    measurements, made = measured(tmp_path, "return make(pipelines, request) * (0.5 if len(CALLS) == 4 else 1)")
    assert measurements["repeat_max_difference"] == pytest.approx(float(made.pictures["cat"].max()) / 2)
    assert made.repeats["cat"].allclose(made.pictures["cat"] / 2)


ONE_BUFFER = """pictures = make(pipelines, request)
    buffer = vars(make).setdefault("buffer", pictures.clone())
    buffer.copy_(pictures * (0.5 if len(CALLS) == 4 else 1))
    return buffer"""


def test_pictures_that_come_in_the_same_memory_every_time_are_compared_all_the_same(tmp_path: Path) -> None:
    """As an engine with an output buffer of its own gives them."""
    measurements, made = measured(tmp_path, ONE_BUFFER)
    assert measurements["repeat_max_difference"] == pytest.approx(float(made.pictures["cat"].max()) / 2)
    assert made.repeats["cat"].allclose(made.pictures["cat"] / 2)


CACHED = """if request.name not in KEPT:
        KEPT[request.name] = make(pipelines, request)
    return KEPT[request.name]"""
ON_DISK = """if not FILE.exists():
        torch.save(make(pipelines, request), FILE)
    return torch.load(FILE)"""


def test_a_call_that_a_cache_answers_is_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(InvalidOutputError, match="request cat was answered without a denoising step"):
        measured(tmp_path, CACHED)


def test_nor_is_one_that_a_cache_on_disk_has_answered_from_the_first_call_on(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(InvalidOutputError, match="request cat was answered without a denoising step"):
            measured(tmp_path, ON_DISK)


def test_nor_where_a_technique_put_the_cache_there(tmp_path: Path) -> None:
    serve = "return getattr(pipelines['main'], 'serve', make)(pipelines, request)"
    assert measured(tmp_path, serve)[0]["repeat_max_difference"] == 0
    with pytest.raises(InvalidOutputError, match="request cat was answered without a denoising step"):
        measured(tmp_path, serve, APPLY_A_CACHE)


UPSCALED = "CALLS.append(1)\n    return pipelines['upscaler'](torch.full((1, 3, 32, 32), 0.5))"


def test_a_request_that_names_an_entry_without_denoiser_needs_no_step(tmp_path: Path) -> None:
    assert measured(tmp_path, UPSCALED, pipeline="upscaler")[0]["latency"][0]["n"] == 5
    with pytest.raises(InvalidOutputError, match="let its `pipeline` name the entry of load"):
        measured(tmp_path, UPSCALED)


HOWEVER = {
    "the scheduler alone": "noise = pipelines['main'].scheduler.step(torch.ones(1, 3, 32, 32))",
    "an engine in the denoiser's place": "pipelines['main'].unet = torch.sigmoid; "
    "noise = pipelines['main'].scheduler.step(make(pipelines, request))",
    "a scheduler of the call's own": "pipelines['main'].scheduler = Scheduler(); "
    "noise = pipelines['main'].scheduler.step(torch.ones(1, 3, 32, 32))",
}


@pytest.mark.parametrize("step", HOWEVER.values(), ids=HOWEVER)
def test_steps_are_seen_however_they_are_taken(tmp_path: Path, step: str) -> None:
    assert measured(tmp_path, f"{step}\n    return noise")[0]["repeat_max_difference"] == 0


def test_counting_steps_leaves_nothing_behind(tmp_path: Path) -> None:
    class Denoiser(torch.nn.Module):
        pass

    class Scheduler:
        def step(self) -> int:
            return 1

    step, pipeline = Scheduler.step, SimpleNamespace(unet=Denoiser(), scheduler=Scheduler())
    with Visits({"main": pipeline, "again": pipeline}) as steps:
        assert Scheduler().step() == 1
    assert steps.taken == 1
    assert Scheduler.step is step
    assert "__call__" not in vars(Denoiser)
