"""The comic study in its small size: every entry is visited, adapters show in the picture, and leave nothing behind."""

import dataclasses
from typing import Any

import pytest
import torch
from paretune.objectives.measuring.visits import Visits
from paretune.studies import Workload, read_study


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
    assert study.workload.options == {"model": "/models/sdxl", "dtype": "float16"}
    assert study.workload.quality_assessed
    assert not read_study("comic", settings[:1]).workload.quality_assessed
