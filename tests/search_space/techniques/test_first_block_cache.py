"""The first-block cache: its three parts against the U-Net's own forward, what it decides, and a compiler."""

from typing import Any

import pytest
import torch
from paretune.search_space._unet_parts import unet_parts
from paretune.search_space.caching.first_block_cache import first_block_cache, took_effect
from paretune.search_space.compiler.torch_compile import torch_compile
from paretune.testing import ip_adapter, picture, relative_difference, tiny_sdxl

LOOSE = {"threshold_permille": 400, "most_cached": 2, "branch": 1}


@pytest.mark.parametrize("branch", [0, 1, 2])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (15, 18)])
@torch.no_grad()
def test_the_parts_are_the_unets_own_mathematics(branch: int, height: int, width: int) -> None:
    unet = tiny_sdxl().unet
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    sample, timestep, prompt = noise(2, 4, height, width), torch.tensor(500.0), noise(2, 77, 64)
    added = {"text_embeds": noise(2, 32), "time_ids": noise(2, 6)}
    expected = unet(sample, timestep, prompt, added_cond_kwargs=added).sample
    parts = unet_parts(unet, "test", branch)
    head = parts["head"](sample, timestep, prompt, added, None)
    deep = parts["middle"](*head, None)
    assert torch.equal(parts["tail"](*head, None, deep), expected)


def test_it_never_caches_more_steps_in_a_row_than_allowed() -> None:
    for most_cached, least in ((1, 5), (3, 3)):
        pipeline = tiny_sdxl()
        values = {"threshold_permille": 400, "most_cached": most_cached, "branch": 1}
        first_block_cache({"main": pipeline}, **values)
        computed: list[int] = []
        pipeline.unet.mid_block.register_forward_hook(lambda *_, seen=computed: seen.append(1))
        picture(pipeline, batch=1, steps=10)
        state = pipeline.unet.first_block_state
        assert state["steps"] == 10
        assert state["computed"] == len(computed) >= least
        assert state["longest"] <= most_cached
        assert took_effect({"main": pipeline}, **values) is None


def test_a_looser_threshold_computes_less_and_moves_the_picture_more() -> None:
    reference = picture(tiny_sdxl(), batch=1, steps=12)
    computed, moved = [], []
    for threshold in (50, 400):
        pipeline = tiny_sdxl()
        first_block_cache({"main": pipeline}, threshold_permille=threshold, most_cached=5, branch=2)
        moved.append(relative_difference(picture(pipeline, batch=1, steps=12), reference))
        computed.append(pipeline.unet.first_block_state["computed"])
    assert 12 > computed[0] > computed[1]
    assert 0 < moved[0] < moved[1] < 0.1


def test_ip_adapters_come_and_go() -> None:
    torch.manual_seed(0)
    embeds = [torch.randn(2, 1, 8)]
    untouched, pipeline = tiny_sdxl(), tiny_sdxl()
    first_block_cache({"main": pipeline}, **LOOSE)
    before = picture(pipeline, batch=1)
    for each in (untouched, pipeline):
        each.load_ip_adapter(ip_adapter(untouched.unet), subfolder="", weight_name="", image_encoder_folder=None)
    torch.manual_seed(0)
    adapter = ip_adapter(untouched.unet)
    for each in (untouched, pipeline):
        each.load_ip_adapter(adapter, subfolder="", weight_name="", image_encoder_folder=None)
    # The first step is always computed whole.
    expected = picture(untouched, batch=1, steps=1, ip_adapter_image_embeds=embeds)
    assert torch.equal(picture(pipeline, batch=1, steps=1, ip_adapter_image_embeds=embeds), expected)
    assert relative_difference(picture(pipeline, batch=1, ip_adapter_image_embeds=embeds), before) > 1e-3
    pipeline.unload_ip_adapter()
    assert torch.equal(picture(pipeline, batch=1), before)


@pytest.mark.usefixtures("traced_only")
def test_each_part_compiles_without_a_break() -> None:
    reference = tiny_sdxl()
    first_block_cache({"main": reference}, **LOOSE)
    expected = picture(reference, batch=1, steps=8)

    pipeline = tiny_sdxl()
    first_block_cache({"main": pipeline}, **LOOSE)
    torch_compile({"main": pipeline}, region="whole", mode="default", recipe="none", dynamic="auto", fullgraph=False)
    assert torch.equal(picture(pipeline, batch=1, steps=8), expected)
    assert not torch._dynamo.utils.counters["graph_break"]
    # The head with and without something to compare with, the middle, the tail.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 4
    with torch.compiler.set_stance("fail_on_recompile"):
        assert torch.equal(picture(pipeline, batch=1, steps=8), expected)


def test_a_hook_on_a_block_is_not_passed_by() -> None:
    pipeline = tiny_sdxl()
    first_block_cache({"main": pipeline}, **LOOSE)
    seen: list[int] = []
    pipeline.unet.down_blocks[0].register_forward_hook(lambda *_: seen.append(1))
    assert torch.equal(picture(pipeline, batch=1), picture(tiny_sdxl(), batch=1))
    assert len(seen) == 4
    reason = took_effect({"main": pipeline}, **LOOSE)
    assert reason is not None
    assert "a hook sits on a DownBlock2D" in reason


def test_unknown_unets_are_refused() -> None:
    pipeline: Any = tiny_sdxl()
    pipeline.unet.up_blocks[-1] = torch.nn.Identity()
    with pytest.raises(ValueError, match="Identity"):
        first_block_cache({"main": pipeline}, **LOOSE)
