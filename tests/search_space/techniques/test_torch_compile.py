"""torch.compile by role: what is compiled, and what is noticed when it is not."""

from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from paretune.search_space import technique
from paretune.search_space.compiler.torch_compile import TorchCompileParameters, compiled_regions, torch_compile
from paretune.testing import check_artefacts, picture, tiny_sdxl

DENOISER, VAE, TEXT = (technique(f"torch_compile{suffix}") for suffix in ("", "_vae", "_text_encoders"))


def _how(**changed: Any) -> dict[str, Any]:
    return TorchCompileParameters(**changed).model_dump()


def test_regions_of_a_unet() -> None:
    unet = tiny_sdxl().unet
    kinds = {
        region: [type(m).__name__ for m in compiled_regions(unet, region)] for region in ("whole", "repeated_blocks")
    }
    assert kinds == {"whole": ["UNet2DConditionModel"], "repeated_blocks": ["BasicTransformerBlock"] * 6}
    blocks = compiled_regions(unet, "all_blocks")
    assert {type(block).__name__ for block in blocks} == {"BasicTransformerBlock", "ResnetBlock2D"}
    assert len(blocks) == len(set(map(id, blocks))) == 6 + 12


@pytest.mark.usefixtures("traced_only")
def test_roles_are_compiled_apart_and_counted_apart() -> None:
    pipeline = tiny_sdxl()
    TEXT.apply({"main": pipeline}, mode="default")
    VAE.apply({"main": pipeline}, parts="decoder_encoder", mode="default")
    picture(pipeline, batch=1, steps=1)
    assert TEXT.took_effect({"main": pipeline}, mode="default") is None
    assert VAE.took_effect({"main": pipeline}, parts="decoder", mode="default") is None
    # What others have compiled does not pass for one's own.
    assert DENOISER.took_effect({"main": pipeline}, **_how()) == "UNet2DConditionModel is not compiled"
    said = VAE.took_effect({"main": pipeline}, parts="decoder_encoder", mode="default")
    assert said == "the compiled forward of Encoder was not called"


def test_falling_back_to_eager_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    pipeline = tiny_sdxl()
    torch_compile({"main": pipeline}, **_how(region="all_blocks"))
    picture(pipeline, batch=1, steps=1)
    said = DENOISER.took_effect({"main": pipeline}, **_how(region="all_blocks"))
    assert said is not None
    assert said.startswith("no graph was made of forward of ")


@pytest.mark.parametrize("recipe", get_args(TorchCompileParameters.model_fields["recipe"].annotation))
@pytest.mark.parametrize("mode", get_args(TorchCompileParameters.model_fields["mode"].annotation))
def test_every_mode_takes_every_recipe(mode: str, recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch refuses a mode beside options, and options that it does not know, when compile() is called."""
    seen: list[dict[str, Any]] = []
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **how: seen.append(how) or compile(function, **how))
    torch_compile({"main": SimpleNamespace(unet=torch.nn.Linear(1, 1))}, **_how(mode=mode, recipe=recipe))
    options = torch._inductor.list_mode_options(mode) if recipe == "none" else seen[0]["options"]
    assert options.items() >= torch._inductor.list_mode_options(mode).items()
    assert ("mode" in seen[0]) is (recipe == "none")


@pytest.mark.parametrize(
    ("known", "values"),
    [(DENOISER, _how()), (VAE, {"parts": "decoder_encoder", "mode": "default"}), (TEXT, {"mode": "default"})],
    ids=("denoiser", "vae", "text_encoders"),
)
def test_calls_that_no_artefact_fits_make_the_picture_of_the_pipeline(known: Any, values: dict[str, Any]) -> None:
    check_artefacts(known, values)
