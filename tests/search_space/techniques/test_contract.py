"""What every technique promises, checked on the tiny pipeline with a sample of the parameters that can work."""

import functools
from typing import Any

import pytest
import torch
from paretune.search_space import TECHNIQUES, Axis, Parameters, Target, Technique, is_installed, technique
from paretune.testing import (
    CLOSE,
    DTYPES,
    SAME_PICTURE,
    TINY_FACTS,
    check_description,
    check_exported_source,
    check_later_changes,
    check_notices_untouched,
    check_promises,
    picture,
    relative_difference,
    tiny_sdxl,
)

PACKAGES = frozenset(package for known in TECHNIQUES for package in known.all_packages() if is_installed(package))
TARGETS = {
    "cpu": Target(device="cpu", name="cpu", packages=PACKAGES),
    "cuda": Target(
        device="cuda",
        name="gpu",
        packages=PACKAGES,
        compute_capability=torch.cuda.get_device_capability() if torch.cuda.is_available() else (9, 0),
    ),
}
OWN_DTYPE = {("cuda", "dtype"): torch.float32}
"""A technique that starts from another dtype: two 16-bit formats lie too far apart to be compared with each other."""
TEN_STEPS = functools.partial(picture, batch=1, steps=10)
NEGATIVE = functools.partial(picture, negative_prompt="red")
MORE_STEPS = ("first_block_cache", "forecast_cache", "pyramid_attention_broadcast", "guidance_interval")
"""Techniques that leave the first few steps alone, or the last."""


def _diagonal(known: Technique, values: dict[str, Any], *begins: int) -> bool:
    """The first values of all parameters together, the second ones, and so on; each parameter counts from its own of
    `begins`, and from the beginning again after its last.
    """
    choices = known.parameters.choices()
    places = [choices[name].index(value) for name, value in values.items()]
    lengths = [len(each) for each in choices.values()]
    return any(
        places == [(number + begin) % length for length, begin in zip(lengths, begins, strict=True)]
        for number in range(max(lengths))
    )


def _worth_running(known: Technique, device: str, values: dict[str, Any]) -> bool:
    """A sample: every value of every parameter is there, not every combination of them."""
    match known.name:
        case "dtype":
            # The pipeline's own changes nothing, and a CPU takes ten seconds for a picture in float16.
            return values["dtype"] != "float32" and (values["dtype"], device) != ("float16", "cpu")
        case "torch_compile":
            # The other modes are for the code generator, which does not run here.
            how = (values["mode"], values["recipe"], values["region"], values["dynamic"], values["fullgraph"])
            return how in (
                ("default", "none", "whole", "auto", False),
                ("default", "none", "repeated_blocks", "never", True),
                ("default", "none", "all_blocks", "always", True),
            )
        case "torch_compile_vae" | "torch_compile_text_encoders":
            return bool(values["mode"] == "default")
        case "scheduler":
            return values["scheduler"] in ("DPMSolverMultistepScheduler", "LCMScheduler")
        case "fewer_steps":
            return bool(values["percent"] == 50)
        case "deepcache":
            others = (values["branch"], values["full_percent"])
            return others == (0, 0) or (values["interval"] == 2 and 0 in others)
        case "first_block_cache" | "forecast_cache" | "guidance_interval":
            return _diagonal(known, values, *(0 for _ in values))
        case "pyramid_attention_broadcast":
            return _diagonal(known, values, 0, 1, 0)
    return True


def _combinations(known: Technique, device: str) -> list[Parameters]:
    facts = {"main": TINY_FACTS}
    combinations = [p for p in known.parameters.combinations() if known.why_not(TARGETS[device], facts, p) is None]
    return [p for p in combinations if _worth_running(known, device, p.model_dump())]


CASES = [
    pytest.param(
        device,
        known,
        parameters.model_dump(),
        id="-".join([device, known.name, *map(str, parameters.model_dump().values())]),
        marks=[pytest.mark.gpu] if device == "cuda" else [],
    )
    for device in ("cpu", "cuda")
    for known in TECHNIQUES
    for parameters in _combinations(known, device)
]


@pytest.mark.usefixtures("traced_only")
@pytest.mark.parametrize(("device", "known", "parameters"), CASES)
def test_technique_keeps_its_promises(device: str, known: Technique, parameters: dict[str, Any]) -> None:
    dtype = OWN_DTYPE.get((device, known.name), DTYPES[device])
    make_picture = TEN_STEPS if known.name in MORE_STEPS else picture
    make_picture = NEGATIVE if known.name == "prompt_embedding_cache" else make_picture
    check_promises(known, parameters, make_picture=make_picture, device=device, dtype=dtype)


@pytest.mark.parametrize(("device", "known", "parameters"), CASES)
def test_took_effect_notices_an_untouched_pipeline(device: str, known: Technique, parameters: dict[str, Any]) -> None:
    if known.name == "expandable_segments":
        pytest.skip("a switch of the process: what other tests took of the GPU's memory stays as they asked for it")
    dtype = OWN_DTYPE.get((device, known.name), DTYPES[device])
    check_notices_untouched(known, parameters, device=device, dtype=dtype)


@pytest.mark.usefixtures("traced_only")
@pytest.mark.parametrize(
    "known",
    [
        # Compiling, and 16 bits on a CPU, take ten seconds each.
        pytest.param(known, marks=[pytest.mark.slow] if known.axis is Axis.COMPILER or known.name == "dtype" else [])
        for known in TECHNIQUES
        if _combinations(known, "cpu")
    ],
    ids=lambda known: known.name,
)
def test_a_lora_that_is_loaded_or_fused_later_is_in_the_picture_or_an_error(known: Technique) -> None:
    check_later_changes(known, _combinations(known, "cpu")[0].model_dump())


@pytest.mark.parametrize("known", TECHNIQUES, ids=lambda known: known.name)
def test_exported_source_stands_alone(known: Technique) -> None:
    check_exported_source(known, next(iter(_combinations(known, "cpu")), None), tiny_sdxl())


@pytest.mark.parametrize(
    "known",
    # These two act on whatever modules there are.
    [known for known in TECHNIQUES if known.name not in ("dtype", "model_offload")],
    ids=lambda known: known.name,
)
def test_no_technique_works_without_its_module(known: Technique) -> None:
    without = {"main": TINY_FACTS.from_dict({**TINY_FACTS.to_dict(), "modules": {}})}
    target = TARGETS["cuda"]
    assert all(known.why_not(target, without, p) is not None for p in known.parameters.combinations())


def test_technique_by_name() -> None:
    assert technique("deepcache").name == "deepcache"
    with pytest.raises(ValueError, match="did you mean deepcache"):
        technique("deep_cache")
    with pytest.raises(ValueError, match="there are dtype, vae_dtype, "):
        technique("zzz")


def test_every_technique_says_what_it_is() -> None:
    assert len({known.name for known in TECHNIQUES}) == len(TECHNIQUES)
    for known in TECHNIQUES:
        check_description(known)
        assert known.source.startswith("https://")


def test_tiny_sdxl_tells_pictures_apart() -> None:
    """The limits above mean something only if other seeds, prompts and guidance change more."""
    pipeline = tiny_sdxl()
    ours = picture(pipeline)
    others = picture(pipeline, seed=10), picture(pipeline, "the red sea"), picture(pipeline, guidance=1.0)
    assert relative_difference(others[0], ours) > SAME_PICTURE
    assert all(relative_difference(other, ours) > 50 * CLOSE["cpu"] for other in others)
