"""The space that a study searches, and the rules about what cannot work in it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from paretune.search_space import (
    RULES,
    TECHNIQUES,
    Configuration,
    Loss,
    SearchSpace,
    Stage,
    Target,
    Trait,
    forget_techniques,
    impossible,
    known_techniques,
    load_techniques,
    technique,
)
from paretune.testing import TINY_FACTS

PIPELINES = {"main": TINY_FACTS}
PACKAGES = frozenset(package for known in TECHNIQUES for package in known.all_packages())
CPU = Target(device="cpu", name="cpu", packages=PACKAGES)
GPU = Target(device="cuda", name="gpu", compute_capability=(9, 0), memory_gib=80, packages=PACKAGES)
EVERYTHING = SearchSpace.of({known.name: {} for known in TECHNIQUES})


def test_a_space_of_everything_has_every_choice() -> None:
    assert {name: dict(choices) for name, choices in EVERYTHING.techniques.items()} == {
        known.name: known.parameters.choices() for known in TECHNIQUES
    }


def test_what_changes_the_picture_by_design_is_searched_only_where_it_is_named() -> None:
    on_request = {known.name for known in TECHNIQUES if known.on_request}
    assert on_request == {known.name for known in TECHNIQUES if Loss.BY_DESIGN in known.losses()} != set()
    assert set(SearchSpace.of().techniques) == {known.name for known in TECHNIQUES} - on_request
    assert "scheduler" in SearchSpace.of({"scheduler": {}}).techniques


def test_a_lossless_space_has_only_values_that_lose_nothing_but_rounding() -> None:
    space, left_out = EVERYTHING.lossless()
    for name, choices in space.techniques.items():
        known = technique(name)
        losses = {known.loss_with(parameters) for parameters in known.parameters.combinations(choices)}
        assert losses <= {Loss.BIT_IDENTICAL, Loss.REORDERED}
    assert space.techniques["vae_dtype"] == {"dtype": ("float32",)}
    assert "sage" not in space.techniques["attention_backend"]["backend"]
    assert left_out["deepcache"] == "the study is lossless, and this is approximate"
    assert left_out["vae_dtype.dtype=bfloat16"] == "the study is lossless, and this is approximate"
    assert left_out["scheduler"] == "the study is lossless, and this is different by design"


def test_named_techniques_and_choices_only_in_the_order_of_application() -> None:
    selection = {"mode": ["reduce-overhead", "default"], "region": "whole", "recipe": "none", "fullgraph": False}
    space = SearchSpace.of({"vae_slicing": {}, "torch_compile": selection})
    assert list(space.techniques) == ["torch_compile", "vae_slicing"]
    assert space.techniques["torch_compile"] == {
        "region": ("whole",),
        "mode": ("reduce-overhead", "default"),
        "recipe": ("none",),
        "dynamic": ("auto", "never", "always"),
        "fullgraph": (False,),
    }
    assert space.size() == (1 + 1 * 2 * 3) * 2


@pytest.mark.parametrize(
    ("selection", "sentence"),
    [
        ({"deepcach": {}}, "there is no technique 'deepcach'; did you mean deepcache?"),
        (
            {"sdpa_kernel": {"vea": "math"}},
            "sdpa_kernel has no parameter 'vea'; it has unet, vae",
        ),
        ({"deepcache": {"interval": 99}}, "deepcache.interval cannot be 99; it is one of 2, 3, 4, 5"),
        ({"deepcache": {"interval": []}}, "space.deepcache.interval lists no choice"),
        ({"deepcache": [2]}, "space.deepcache: write its parameters as a mapping, or {} for all choices"),
    ],
)
def test_what_a_space_refuses(selection: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011 (the text is compared below)
        SearchSpace.of(selection)
    assert str(raised.value) == sentence


def test_what_can_never_work_on_the_machine_is_left_out_with_its_reason() -> None:
    possible, left_out = EVERYTHING.possible(CPU, PIPELINES)
    assert possible.techniques["torch_compile"]["mode"] == ("default",)
    assert left_out["torch_compile.mode=reduce-overhead"] == "mode reduce-overhead needs a CUDA device"
    assert "group_offload" in left_out
    for name, choices in possible.techniques.items():
        parameters = technique(name).parameters.combinations(choices)
        assert any(technique(name).why_not(CPU, PIPELINES, p) is None for p in parameters)
    assert set(possible.techniques) | {name for name in left_out if "." not in name} == set(EVERYTHING.techniques)


def test_more_works_on_a_gpu() -> None:
    on_gpu, on_cpu = (EVERYTHING.possible(target, PIPELINES)[0] for target in (GPU, CPU))
    assert on_gpu.size() > on_cpu.size()
    assert len(on_gpu.techniques["torch_compile"]["mode"]) == 4


def test_without_its_package_a_technique_is_left_out() -> None:
    bare = Target(device="cuda", name="gpu", compute_capability=(9, 0))
    _, left_out = EVERYTHING.possible(bare, PIPELINES)
    assert left_out["torchao_quantization"] == ("the package torchao is not installed: pip install 'paretune[torchao]'")


@pytest.mark.parametrize(
    "techniques",
    [{}, {"fused_qkv": {}}, {"deepcache": {"interval": 5, "branch": 1}, "vae_tiling": {}}]
    + [{known.name: parameters.model_dump()} for known in TECHNIQUES for parameters in known.parameters.combinations()],
)
def test_what_is_enqueued_is_what_is_suggested(techniques: dict[str, dict[str, Any]]) -> None:
    configuration = Configuration.of(techniques)
    parameters = EVERYTHING.optuna_parameters(configuration)
    assert EVERYTHING.suggest(optuna.trial.FixedTrial(parameters)) == configuration  # type: ignore[arg-type]


def test_suggestions_stay_in_the_space_and_a_switched_off_technique_has_no_parameters() -> None:
    compiled = {"mode": "default", "recipe": "none", "dynamic": "auto", "fullgraph": False}
    space = SearchSpace.of({"torch_compile": compiled, "vae_slicing": {}})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(60):
        trial = study.ask()
        configuration = space.suggest(trial)
        expected = space.optuna_parameters(configuration)
        assert trial.params == expected
        assert ("torch_compile.region" in trial.params) is (trial.params["torch_compile"] == "on")
        seen.add(configuration)
    assert len(seen) == space.size()


@pytest.mark.parametrize(
    ("techniques", "sentence"),
    [
        ({"fused_qkv": {}}, "fused_qkv is not in the study's space"),
        ({"deepcache": {"interval": 5}}, "deepcache.interval=5 is not in the study's space"),
    ],
)
def test_a_configuration_outside_of_the_space(techniques: dict[str, dict[str, Any]], sentence: str) -> None:
    space = SearchSpace.of({"deepcache": {"interval": [2, 3]}})
    with pytest.raises(ValueError, match=sentence):
        space.optuna_parameters(Configuration.of(techniques))


@pytest.mark.parametrize(
    ("techniques", "reason"),
    [
        ({"model_offload": {}, "group_offload": {}}, "model_offload with group_offload: diffusers refuses two kinds"),
        (
            {"torch_compile": {"mode": "reduce-overhead"}, "model_offload": {}},
            "torch_compile with model_offload: CUDA graphs need weights at fixed addresses",
        ),
        ({"torch_compile": {}, "stable_fast": {}}, "torch_compile with stable_fast: two compilers cannot both"),
        (
            {"torch_compile": {"mode": "max-autotune"}, "cuda_graphs": {}},
            "torch_compile with cuda_graphs: both record CUDA graphs of the same modules",
        ),
        (
            {"torch_compile_vae": {"mode": "reduce-overhead"}, "vae_slicing": {}},
            "torch_compile_vae with vae_slicing: diffusers keeps the decoder's slices at once",
        ),
        ({"layerwise_casting": {}, "torch_compile": {}}, "layerwise_casting with torch_compile: the conversion of"),
        ({"layerwise_casting": {}, "torchao_quantization": {}}, "torchao_quantization with layerwise_casting: "),
        ({"layerwise_casting": {}, "cuda_graphs": {}}, "layerwise_casting with cuda_graphs: CUDA graphs need weights"),
        ({"fused_qkv": {}, "attention_backend": {}}, "attention_backend with fused_qkv: each puts attention"),
        ({"deepcache": {}, "stable_fast": {}}, "stable_fast with deepcache: tracing would keep the choice"),
        ({"fp16_accumulation": {}}, "fp16_accumulation: the denoiser does not multiply in float16"),
        ({"dtype": {"dtype": "bfloat16"}, "tf32": {}}, "tf32: nothing here multiplies in float32"),
        ({"text_encoder_offload": {}, "model_offload": {}}, "model_offload with text_encoder_offload: "),
        (
            {"text_encoder_offload": {}, "cuda_graphs": {"modules": "denoiser_vae_text"}},
            "cuda_graphs with text_encoder_offload: CUDA graphs need weights at fixed addresses",
        ),
        (
            {"torchao_quantization": {"scheme": "int8_weight_only"}, "torch_compile": {}, "model_offload": {}},
            "torchao_quantization with torch_compile with model_offload: torch cannot move a compiled module",
        ),
        ({"deepcache": {}, "group_offload": {}}, "deepcache with group_offload: "),
    ],
)
def test_rules_refuse_with_a_reason(techniques: dict[str, dict[str, Any]], reason: str) -> None:
    refused = impossible(Configuration.of(techniques), GPU, PIPELINES)
    assert refused is not None
    assert refused.startswith(reason)


@pytest.mark.parametrize(
    "techniques",
    [
        {},
        {"torch_compile": {"mode": "default"}, "model_offload": {}},
        {"deepcache": {}, "torch_compile": {}, "fused_qkv": {}, "channels_last": {}, "guidance_cutoff": {}},
        {"torchao_quantization": {"scheme": "int8_weight_only"}, "torch_compile": {}},
        # What two techniques do to different modules does not clash.
        {"torch_compile": {"mode": "reduce-overhead"}, "text_encoder_offload": {}},
        {"torch_compile": {}, "torch_compile_vae": {"mode": "reduce-overhead"}, "torch_compile_text_encoders": {}},
        {"layerwise_casting": {}, "torch_compile_vae": {}},
        {"torch_compile_vae": {}, "group_offload": {"level": "leaf_level"}},
        {"dtype": {"dtype": "float16"}, "tf32": {}},  # the VAE runs in float32 all the same
    ],
)
def test_rules_let_the_rest_be_tried(techniques: dict[str, dict[str, Any]]) -> None:
    assert impossible(Configuration.of(techniques), GPU, PIPELINES) is None


def test_a_techniques_own_refusal_comes_with_its_name() -> None:
    refused = impossible(Configuration.of({"torch_compile": {"mode": "reduce-overhead"}}), CPU, PIPELINES)
    assert refused == "torch_compile: mode reduce-overhead needs a CUDA device"


OWN = """
from paretune.search_space import Axis, Loss, NoParameters, Stage, Technique, Trait

def own_thing(pipelines):
    pass

def effect(pipelines):
    return None

TECHNIQUES = (
    Technique(
        name="own_thing", axis=Axis.MEMORY, loss=Loss.APPROXIMATE, summary="Does.", source="none",
        parameters=NoParameters, apply=own_thing, took_effect=effect, {more}
    ),
)
"""


@pytest.fixture
def own_thing(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Makes the technique own_thing known, written with these further fields."""

    def load(more: str) -> None:
        (tmp_path / "own.py").write_text(OWN.format(more=more))
        load_techniques(tmp_path / "own.py")

    yield load
    forget_techniques()


@pytest.mark.parametrize(
    ("traits", "others", "refused"),
    [
        ("QUANTIZES", {"torch_compile": {}, "model_offload": {}}, "own_thing with torch_compile with model_offload: "),
        ("COMPILES", {"torchao_quantization": {}, "model_offload": {}}, "torchao_quantization with own_thing with "),
        ("MOVES_WEIGHTS", {"torchao_quantization": {}, "torch_compile": {}}, "torchao_quantization with torch_compile"),
        ("QUANTIZES, Trait.COMPILES", {"model_offload": {}}, "own_thing with model_offload: torch cannot move"),
        ("CUDA_GRAPHS", {"group_offload": {}}, "own_thing with group_offload: CUDA graphs need weights at fixed"),
        ("CALLS_INNER_LAYERS", {"group_offload": {}}, "own_thing with group_offload: single layers of a block"),
        ("COMPILES, Trait.COMPILES_WHOLE", {"group_offload": {}}, "own_thing with group_offload: group offload hooks"),
        ("COMPILES", {"group_offload": {"level": "leaf_level"}}, "own_thing with group_offload: group offload hooks"),
        ("COMPILES", {"group_offload": {"level": "block_level"}}, None),
        ("REPLACES_PROCESSORS", {"model_offload": {}}, None),
        ("MOVES_WEIGHTS", {"torch_compile": {"mode": "default"}}, None),
    ],
)
def test_rules_hold_for_a_users_own_technique_by_its_traits(
    own_thing: Callable[[str], None], traits: str, others: dict[str, Any], refused: str | None
) -> None:
    own_thing(f"traits=frozenset({{Trait.{traits}}}), stage=Stage.QUANTIZATION")
    said = impossible(Configuration.of({"own_thing": {}, **others}), GPU, PIPELINES)
    assert said is None if refused is None else said is not None and said.startswith(refused)


def test_own_processors_are_refused_where_adapters_come_and_go(own_thing: Callable[[str], None]) -> None:
    own_thing("traits=frozenset({Trait.REPLACES_PROCESSORS})")
    said = impossible(Configuration.of({"own_thing": {}}), GPU, {"main": replace(TINY_FACTS, adapters=True)})
    assert said is not None
    assert said.startswith("own_thing: an adapter that is loaded later")


@pytest.mark.parametrize(
    ("stage", "before", "after"),
    [
        ("WEIGHTS", "scheduler", "fused_qkv"),
        ("LAYERS", "channels_last", "torchao_quantization"),
        ("QUANTIZATION", "layerwise_casting", "fewer_steps"),
        ("STRUCTURE", "forecast_cache", "torch_compile"),
        ("COMPILATION", "cuda_graphs_modules", "pyramid_attention_broadcast"),
        ("WRAPPERS", "vae_tiling", "model_offload"),
        ("PLACEMENT", "text_encoder_offload", None),
        (None, "text_encoder_offload", None),
    ],
)
def test_a_users_own_technique_comes_last_in_its_stage(
    own_thing: Callable[[str], None], stage: str | None, before: str, after: str | None
) -> None:
    own_thing("" if stage is None else f"stage=Stage.{stage}")
    everything = Configuration.of({known.name: {} for known in known_techniques()})
    order = [step.technique for step in everything.steps]
    position = order.index("own_thing")
    assert order[position - 1] == before
    assert order[position + 1 :][:1] == ([] if after is None else [after])
    assert [name for name in order if name != "own_thing"] == [known.name for known in TECHNIQUES]


def test_techniques_stand_in_the_order_of_their_stages() -> None:
    stages = [known.stage for known in TECHNIQUES]
    assert stages == sorted(stages)
    assert Stage.LAST not in stages


def test_rules_name_techniques_or_traits_that_exist_and_give_a_reason() -> None:
    for rule in RULES:
        assert all(isinstance(part, Trait) or technique(part) for part in rule.together)
        assert rule.reason
        assert not rule.reason.endswith(".")
