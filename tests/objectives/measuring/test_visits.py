"""What a request visits is recorded while it is served: pipelines that share a U-Net, plain modules, other objects."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline
from paretune.objectives.measuring.contract import InvalidOutputError, checked_entries
from paretune.objectives.measuring.stages import StageTimer
from paretune.objectives.measuring.visits import Visits
from paretune.search_space import describe_pipelines, known_steps, with_visits
from paretune.testing import picture, tiny_sdxl
from paretune.testing.tiny_sdxl import ip_adapter


class Matting(torch.nn.Module):
    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures.mean(1, keepdim=True)


class Crop:
    """Neither a pipeline nor a module."""

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures


@pytest.fixture(scope="module")
def workflow() -> dict[str, Any]:
    main = tiny_sdxl()
    refiner = StableDiffusionXLImg2ImgPipeline(**main.components)
    refiner.set_progress_bar_config(disable=True)
    return {"main": main, "refiner": refiner, "matting": Matting(), "crop": Crop(), "unused": Matting()}


def serve(pipelines: dict[str, Any]) -> torch.Tensor:
    """Two drafts, refined without guidance, in tiles through the matting."""
    drafts = picture(pipelines["main"], steps=4, batch=2)
    refined = pipelines["refiner"](
        ["a cat"] * 2, image=drafts, strength=0.5, num_inference_steps=6, guidance_scale=1.0,
        generator=torch.Generator().manual_seed(0), output_type="pt",
    ).images  # fmt: skip
    for each in refined:
        pipelines["matting"](each[None])
    return torch.as_tensor(pipelines["crop"](refined))


def test_visits_are_recorded_in_order_with_what_each_was_asked_for(workflow: dict[str, Any]) -> None:
    expected = serve(workflow)
    with Visits(workflow, detailed=True) as visits:
        assert torch.equal(serve(workflow), expected)
    seen = [(v.entry, v.kind, v.calls, v.batch, v.width_px, v.steps, v.guided) for v in visits.made]
    assert seen == [
        ("main", "pipeline", 1, 2, 64, 4, True),
        ("refiner", "pipeline", 1, 2, 64, 3, False),
        ("matting", "module", 2, 1, 64, 0, None),
        ("crop", "object", 1, 2, 64, 0, None),
    ]
    assert "__call__" not in vars(Matting)


def test_facts_come_from_the_visits_and_steps_of_main_and_refiner_are_counted_apart(workflow: dict[str, Any]) -> None:
    request = SimpleNamespace(
        name="refine", pipeline="main", batch=1, width_px=64, height_px=64, guidance=5.0, adapters=(), steps=4
    )
    with Visits(workflow, detailed=True) as visits:
        serve(workflow)
    described = describe_pipelines(workflow, [request])
    assert (described["refiner"].largest_batch, described["refiner"].largest_side_px) == (1, 0)
    facts = with_visits(described, {"refine": [visit.to_dict() for visit in visits.made]}, [request])
    assert (facts["main"].largest_batch, facts["main"].guided, facts["main"].steps) == (2, True, (4,))
    assert (facts["refiner"].largest_batch, facts["refiner"].guided, facts["refiner"].steps) == (2, False, (3,))
    assert facts["refiner"].largest_side_px == 64
    assert (facts["matting"].visited, facts["unused"].visited) == (True, False)
    assert known_steps(facts) == [3, 4]
    assert type(facts["main"]).from_dict(facts["main"].to_dict()) == facts["main"]


def test_adapters_that_come_and_go_are_seen_without_being_declared() -> None:
    pipeline = tiny_sdxl()
    requests = [
        SimpleNamespace(
            name=name, pipeline="main", batch=1, width_px=64, height_px=64, guidance=5.0, adapters=(), steps=1
        )
        for name in ("plain", "ann")
    ]
    visits = {}
    for request in requests:
        options = {}
        if request.name == "ann":
            pipeline.load_ip_adapter(ip_adapter(pipeline.unet), subfolder="", weight_name="", image_encoder_folder=None)
            options = {"ip_adapter_image_embeds": [torch.ones(2, 1, 8)]}
        with Visits({"main": pipeline}, detailed=True) as recorded:
            picture(pipeline, steps=1, batch=1, **options)
        visits[request.name] = [visit.to_dict() for visit in recorded.made]
    assert [visits[name][0]["adapters"] for name in ("plain", "ann")] == [[], ["ip-adapter"]]
    facts = with_visits(describe_pipelines({"main": pipeline}, requests), visits, requests)["main"]
    assert (facts.adapters, facts.adapter_kinds) == (True, ("ip-adapter",))


def test_a_loop_of_the_workloads_own_counts_for_the_pipeline_whose_denoiser_it_calls() -> None:
    class Denoiser(torch.nn.Module):
        def forward(self, noise: torch.Tensor) -> torch.Tensor:
            return noise

    first, second = SimpleNamespace(unet=Denoiser()), SimpleNamespace(unet=Denoiser())
    with Visits({"first": first, "second": second}) as visits:
        for _ in range(3):
            second.unet(torch.zeros(1))
    assert [(visit.entry, visit.steps) for visit in visits.made] == [("second", 3)]
    assert visits.taken == 3


@pytest.fixture
def stages_of_a_request(workflow: dict[str, Any]) -> dict[str, Any]:
    with StageTimer(workflow, "cpu", memory=True) as timer, Visits(workflow, around=timer.entry):
        serve(workflow)
    return timer.summary()


def test_stages_are_named_after_the_entry_and_modules_are_stages_too(stages_of_a_request: dict[str, Any]) -> None:
    stages = stages_of_a_request["stages"]
    assert {"main/denoising", "refiner/vae_encode", "refiner/denoising", "matting", "crop"} < set(stages)
    assert "unused" not in stages
    assert (stages["main/denoising"]["steps"], stages["refiner/denoising"]["steps"]) == (4, 3)
    assert all(stage["peak_gib"] > 0 for stage in stages.values())
    accounted_ms = sum(stage["wall_ms"] for stage in stages.values()) + stages_of_a_request["other_ms"]
    assert accounted_ms == pytest.approx(stages_of_a_request["total_ms"], abs=0.01)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (None, r"load\(\) returned nothing \(None\): it has to return \{name: pipeline"),
        ([], r"load\(\) returned an empty list: it has to"),
        ({}, "an empty dict"),
        ({1: "x"}, "a dict with the key 1"),
        ({"main": None}, "returned None as 'main': leave it out"),
    ],
)
def test_what_load_returns_is_checked_with_a_sentence(returned: Any, said: str) -> None:
    with pytest.raises(InvalidOutputError, match=said):
        checked_entries(returned)
