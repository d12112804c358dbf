"""LoRAs of several ranks take each other's place without new layers, weights or graphs, and leave no trace."""

from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline
from paretune.objectives.measuring.graphs_made import Compilations, Made
from paretune.search_space import Configuration, ModuleFacts, PipelineFacts, Role, Target, impossible, technique
from paretune.search_space._module_state import module_state
from paretune.search_space._structure import watched_structure
from paretune.testing import picture, sibling, tiny_sdxl

pytest.importorskip("peft")
LAYERS = ("attn2.to_v", "attn1.to_q")


def lora_of(pipeline: Any, seed: int, rank: int, layers: tuple[str, ...] = LAYERS) -> dict[str, torch.Tensor]:
    """For layers of the U-Net, in the names that PEFT writes."""
    drawn, found = torch.Generator().manual_seed(seed), {}
    modules = {name.replace(".base_layer", ""): module for name, module in pipeline.unet.named_modules()}
    for name, module in modules.items():
        if name.endswith(layers):
            out, inside = module.weight.shape
            found[f"unet.{name}.lora_A.weight"] = torch.randn(rank, inside, generator=drawn) * 0.3
            found[f"unet.{name}.lora_B.weight"] = torch.randn(out, rank, generator=drawn) * 0.3
    return found


def shown(pipeline: Any) -> torch.Tensor:
    return picture(pipeline, steps=1, batch=1)


def as_diffusers_loads_it(seed: int, rank: int, scale: float = 1.0) -> torch.Tensor:
    pipeline = tiny_sdxl()
    pipeline.load_lora_weights(lora_of(pipeline, seed, rank), adapter_name="it")
    pipeline.set_adapters("it", scale)
    return shown(pipeline)


def test_loras_of_other_ranks_take_each_others_place_and_nothing_is_compiled_again() -> None:
    pipeline = tiny_sdxl()
    second = sibling(pipeline, pipeline.scheduler)
    files = {"rose": lora_of(pipeline, 1, 4), "night": lora_of(pipeline, 2, 8)}
    expected = {"rose": as_diffusers_loads_it(1, 4), "night": as_diffusers_loads_it(2, 8)}
    plain = shown(pipeline)
    assert not torch.allclose(expected["rose"], plain, atol=0.01)
    technique("lora_hotswap").apply({"main": pipeline, "second": second}, most_rank=16)
    pipeline.unet.compile(backend="eager", dynamic=None)
    assert torch.allclose(shown(pipeline), plain, atol=1e-5)
    pipeline.load_lora_weights(files["rose"], adapter_name="rose")
    assert torch.allclose(shown(pipeline), expected["rose"], atol=1e-5)
    pipeline.unload_lora_weights()
    look, settings = module_state(pipeline.unet), watched_structure(pipeline.unet)
    before, fits = look(), settings()[0]
    with Compilations() as compilations:
        for name in ("night", "rose", "night"):
            assert torch.allclose(shown(second), plain, atol=1e-5), "they share the U-Net, and nothing is left"
            pipeline.load_lora_weights(files[name], adapter_name=name)
            assert torch.allclose(shown(pipeline), expected[name], atol=1e-5)
            second.unload_lora_weights()
        assert compilations.made() == Made(0, 0)
    pipeline.load_lora_weights(files["rose"], adapter_name="rose")
    pipeline.set_adapters("rose", 0.5)
    assert torch.allclose(shown(pipeline), as_diffusers_loads_it(1, 4, 0.5), atol=1e-5)
    assert look() == before, "recorded code goes on: weights lie where they did, and no layer was added"
    assert settings()[0] == fits, "so does compiled code that came with a bundle"
    assert technique("lora_hotswap").took_effect({"main": pipeline}, most_rank=16) is None
    torch._dynamo.reset()


def test_what_cannot_be_exchanged_is_an_error_and_never_a_picture_without_it() -> None:
    pipeline = tiny_sdxl()
    technique("lora_hotswap").apply({"main": pipeline}, most_rank=16)
    rose = lora_of(pipeline, 1, 4)
    pipeline.load_lora_weights(rose, adapter_name="rose")
    with pytest.raises(RuntimeError, match="one LoRA at a time"):
        pipeline.load_lora_weights(rose, adapter_name="night")
    with pytest.raises(RuntimeError, match="only the LoRA that was loaded, rose, can be set"):
        pipeline.set_adapters(["rose", "night"], [1.0, 0.5])
    pipeline.unload_lora_weights()
    with pytest.raises(RuntimeError, match="changes other layers than the first one"):
        pipeline.load_lora_weights(lora_of(pipeline, 2, 4, ("attn1.to_k",)))
    with pytest.raises(RuntimeError, match="LoRAs of the denoiser only"):
        pipeline.load_lora_weights({**rose, "text_encoder.x.lora_A.weight": torch.ones(4, 4)})


def test_it_is_refused_without_peft_without_loras_and_beside_the_other_way() -> None:
    unet = ModuleFacts(class_name="UNet2DConditionModel", role=Role.DENOISER, dtype="float32", parameters_m=1.0)
    facts = {"main": PipelineFacts(class_name="P", modules={"unet": unet}, adapters=True, adapter_kinds=("lora",))}
    cpu = Target(device="cpu", name="cpu", packages=frozenset({"peft"}))
    swap = {"lora_hotswap": {}}
    assert impossible(Configuration.of(swap), cpu, facts) is None
    bare = Target(device="cpu", name="cpu")
    assert str(impossible(Configuration.of(swap), bare, facts)).endswith("pip install 'paretune[adapters]'")
    none = {"main": PipelineFacts(class_name="P", modules={"unet": unet})}
    assert "no request loads or unloads a LoRA" in str(impossible(Configuration.of(swap), cpu, none))
    assert "choose one way for LoRAs" in str(impossible(Configuration.of({**swap, "lora_merge": {}}), cpu, facts))


LEFT_TO_DIFFUSERS: dict[str, Any] = {
    "fused": lambda pipeline: pipeline.fuse_lora(),
    "disabled": lambda pipeline: pipeline.disable_lora(),
    "deleted": lambda pipeline: pipeline.delete_adapters("rose"),
    "scaled past the pipeline": lambda pipeline: pipeline.unet.set_adapters(["rose"], [0.25]),
    "loaded by another pipeline": lambda pipeline: StableDiffusionXLImg2ImgPipeline.from_pipe(
        pipeline
    ).load_lora_weights(lora_of(pipeline, 2, 4)),
}


@pytest.mark.parametrize("way", LEFT_TO_DIFFUSERS.values(), ids=LEFT_TO_DIFFUSERS)
def test_other_ways_of_driving_a_lora_are_an_error_that_says_what_to_do(way: Any) -> None:
    pipeline = tiny_sdxl()
    plain = shown(pipeline)
    technique("lora_hotswap").apply({"main": pipeline}, most_rank=16)
    pipeline.load_lora_weights(lora_of(pipeline, 1, 4), adapter_name="rose")
    rose = shown(pipeline)
    with pytest.raises(RuntimeError, match=r"lora_hotswap: .* use load_lora_weights\(\)"):
        way(pipeline)
    assert torch.equal(shown(pipeline), rose), "nothing has changed"
    assert pipeline.get_active_adapters() == ["rose"]
    assert pipeline.get_list_adapters() == {"unet": ["rose"]}
    scaled = picture(pipeline, steps=1, batch=1, cross_attention_kwargs={"scale": 0.3})
    assert torch.allclose(scaled, as_diffusers_loads_it(1, 4, 0.3), atol=1e-5)
    StableDiffusionXLImg2ImgPipeline.from_pipe(pipeline).unload_lora_weights()
    assert torch.allclose(shown(pipeline), plain, atol=1e-5), "a pipeline that is made later unloads it"
    assert pipeline.get_list_adapters() == {}


def test_a_lora_may_be_loaded_in_inference_mode_and_the_next_one_outside() -> None:
    pipeline = tiny_sdxl()
    technique("lora_hotswap").apply({"main": pipeline}, most_rank=16)
    with torch.inference_mode():
        pipeline.load_lora_weights(lora_of(pipeline, 1, 4))
        pipeline.unload_lora_weights()
    pipeline.load_lora_weights(lora_of(pipeline, 2, 8))
    assert torch.allclose(shown(pipeline), as_diffusers_loads_it(2, 8), atol=1e-5)
