"""The comic study in its small size: every entry is visited, adapters show in the picture, and leave nothing behind."""

import dataclasses
import importlib
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from paretune.agent.bundle import export, verify
from paretune.agent.search import launch
from paretune.objectives.measuring.visits import Visits
from paretune.objectives.verdict import Verdict
from paretune.search_space import Configuration
from paretune.studies import Workload, read_study
from paretune.testing import tiny_sdxl

COMIC = Path(__file__).parents[2] / "studies" / "comic"


@pytest.mark.slow
def test_the_comic_workflow_visits_everything_and_swaps_leave_no_trace() -> None:
    study = read_study("comic", ["workload.size=small"])
    assert study.workload.swaps
    loaded = Workload(study.workload_description())
    pipelines = loaded.load("cpu")
    requests = {one.name: dataclasses.replace(one, steps=3) for one in loaded.requests}

    def served(name: str, **changes: Any) -> torch.Tensor:
        picture: torch.Tensor = loaded.run(pipelines, dataclasses.replace(requests[name], **changes))
        return picture

    with Visits(pipelines, detailed=True) as visits:
        refined = served("refine", arguments={"strength": 0.7})
    assert [visit.entry for visit in visits.made] == ["adapters", "main", "refiner", "matting", "upscaler"]
    assert [visit.steps for visit in visits.made if visit.kind == "pipeline"] == [3, 2]
    assert refined.shape == (1, 3, 256, 256)
    plain = served("plain")
    for adapter in ("ann", "ben", "rose", "night"):
        changed = served("plain", adapters=(adapter,))
        assert float((changed - plain).abs().mean()) > 0.01, f"{adapter} is to be seen"
        assert torch.equal(served("plain"), plain), f"{adapter} leaves nothing behind"


def test_full_size_is_set_by_options_alone() -> None:
    settings = ["workload.size=full", "workload.options.model=/models/sdxl", "workload.weights=pretrained"]
    study = read_study("comic", settings)
    random = dict.fromkeys(("parts", "matting", "upscaler"), "random")
    assert study.workload.options == {"model": "/models/sdxl", "dtype": "float16", **random}
    assert study.workload.quality_assessed
    assert not read_study("comic", settings[:1]).workload.quality_assessed


def test_random_parts_are_files_that_load_as_published_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(COMIC)
    main = tiny_sdxl()
    before = {name: weight.clone() for name, weight in main.unet.named_parameters()}
    adapters = importlib.import_module("comic_workload").Adapters(main, "random")
    for names, loaded in ((("ann",), True), (("rose",), False), (("ben",), True), ((), False)):
        adapters(names)
        assert (main.unet.encoder_hid_proj is not None) is loaded
        changed = any(
            not torch.equal(weight, before[name]) for name, weight in main.unet.named_parameters() if name in before
        )
        assert changed is ("rose" in names)


def test_the_large_networks_do_what_the_small_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(COMIC)
    networks = importlib.import_module("networks")
    pictures = torch.rand(2, 3, 96, 64)
    with torch.no_grad():
        shown = networks.LargeMatting(8, (1, 1, 1, 1), (1, 1, 1, 1), 4, 8)(pictures)
        assert shown.shape == networks.Matting()(pictures).shape == (2, 1, 96, 64)
        assert shown.min() >= 0
        assert shown.max() <= 1
        larger = networks.LargeUpscaler(1, 8, 4)(pictures)
        assert larger.shape == networks.Upscaler()(pictures).shape == (2, 3, 192, 128)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_from_launch_to_a_bundle_that_verifies_and_is_right_after_fifty_random_swaps(tmp_path: Path) -> None:
    study = read_study("comic", ["workload.size=small", "finalists.count=0"])
    results = launch(study, storage=f"sqlite:///{tmp_path}/paretune.db", trials=3)
    assert len(results.complete) == 3, [trial.reason for trial in results.failures]
    for trial in results.complete:
        assert (trial.measurements["recompiles"], trial.measurements["recaptures"]) == (0, 0)
        assert trial.measurements["swap_stall_ms"] >= 0
        refine = next(one for one in trial.measurements["stages"] if one["requests"] == ["refine"])
        assert {"adapters", "main/denoising", "refiner/denoising", "matting", "upscaler"} <= set(refine["stages"])
    chosen = results.of(Configuration.of({"ip_adapter_swap": {"how": "in_place"}}))
    assert chosen is not None
    assert chosen.verdict is Verdict.BIT_EXACT
    bundle = export(results, chosen, tmp_path / "bundle", unconfirmed=True)
    checks = {check.name: check for check in verify(bundle).checks}
    assert all(check.passed for name, check in checks.items() if name != "latency_ms"), checks

    loaded = Workload(study.workload_description())
    unoptimised, optimised = loaded.load("cpu"), loaded.load("cpu")
    namespace: dict[str, Any] = {}
    exec((bundle / "apply.py").read_text(), namespace)
    namespace["apply"](optimised)
    requests = [dataclasses.replace(one, steps=3) for one in loaded.requests]  # the refiner takes 0.4 of them
    expected = {one.name: loaded.run(unoptimised, one) for one in requests}
    drawn, swaps, before = random.Random(0), 0, ()
    while swaps < 50:
        request = drawn.choice(requests)
        swaps, before = swaps + (request.adapters != before), request.adapters
        assert torch.equal(loaded.run(optimised, request), expected[request.name]), (swaps, request.name)
