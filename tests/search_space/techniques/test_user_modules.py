"""Modules that stand beside the pipelines (matting, upscalers) are compiled and converted as pipelines' own are."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from paretune.search_space import Configuration, Target, apply_source, describe_pipelines, technique, user_modules
from paretune.testing import tiny_sdxl

CPU = Target(device="cpu", name="cpu")
GPU = Target(device="cuda", name="L40S", compute_capability=(8, 9), memory_gib=44)


class Upscaler(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, pictures: torch.Tensor, *, sizes: tuple[int, ...] = ()) -> dict[str, Any]:
        return {"pictures": self.layer(pictures), "sizes": sizes}


@pytest.fixture(scope="module")
def main() -> Any:
    return tiny_sdxl()


def workflow(main: Any) -> dict[str, Any]:
    shared = Upscaler()
    matter = SimpleNamespace(net=Upscaler(), threshold=0.5)
    return {"main": main, "unet": main.unet, "upscaler": shared, "again": shared, "matter": matter, "names": {}}


def test_modules_beside_the_pipelines_are_found_once_each(main: Any) -> None:
    pipelines = workflow(main)
    assert user_modules(pipelines) == [pipelines["upscaler"], pipelines["matter"].net]
    facts = describe_pipelines(pipelines, [])
    assert [name for name, each in facts.items() if each.beside] == ["upscaler", "again", "matter"]
    for name in ("torch_compile_modules", "module_dtype", "cuda_graphs_modules"):
        known, device = technique(name), GPU if name == "cuda_graphs_modules" else CPU
        assert known.why_not(device, facts, known.parameters()) is None
        without = describe_pipelines({"main": main}, [])
        assert known.why_not(device, without, known.parameters()) == "there is no module beside the pipelines"


def test_in_16_bits_they_take_and_give_what_they_did_before(main: Any) -> None:
    pipelines = workflow(main)
    given = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = pipelines["upscaler"](given)["pictures"]
        namespace: dict[str, Any] = {}
        exec(apply_source(Configuration.of({"module_dtype": {"dtype": "bfloat16"}})), namespace)
        namespace["apply"](pipelines)
        found = pipelines["upscaler"](given, sizes=(1, 2))
    assert (found["pictures"].dtype, found["sizes"]) == (torch.float32, (1, 2))
    assert torch.allclose(found["pictures"], expected, atol=0.02)
    assert not torch.equal(found["pictures"], expected)
    known = technique("module_dtype")
    assert known.took_effect(pipelines, dtype="bfloat16") is None
    assert main.unet.dtype is torch.float32
    with pytest.raises(RuntimeError, match="was called before with this Upscaler"):
        namespace["apply"](pipelines)


def test_they_are_compiled_and_what_no_request_calls_is_no_failure(main: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: compile(function, backend="eager"))
    pipelines, known = workflow(main), technique("torch_compile_modules")
    given = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        expected = pipelines["upscaler"](given)["pictures"]
        known.apply(pipelines, mode="default")
        assert known.took_effect(pipelines, mode="default") == "none of the modules was called"
        assert torch.equal(pipelines["upscaler"](given)["pictures"], expected)
    assert known.took_effect(pipelines, mode="default") is None
    torch._dynamo.reset()
