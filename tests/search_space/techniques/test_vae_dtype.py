"""A VAE in float16 whose numbers grow too large says so, and hands out no black picture."""

import pytest
import torch
from paretune.search_space import technique
from paretune.testing import tiny_sdxl


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_an_overflow_ends_the_call_and_names_what_does_not_overflow(dtype: str) -> None:
    pipeline = tiny_sdxl()
    technique("vae_dtype").apply({"main": pipeline}, dtype=dtype)
    latents_BCHW = torch.ones(1, 4, 4, 4)
    assert torch.isfinite(pipeline.vae.decode(latents_BCHW).sample).all()
    torch.nn.init.constant_(pipeline.vae.decoder.conv_out.bias, 60000.0)
    torch.nn.init.constant_(pipeline.vae.decoder.conv_out.weight, 60000.0)
    if dtype == "bfloat16":
        assert torch.isfinite(pipeline.vae.decode(latents_BCHW, return_dict=False)[0]).all()
        return
    with pytest.raises(RuntimeError, match=r'overflowed in float16.* needs vae_dtype "bfloat16"'):
        pipeline.vae.decode(latents_BCHW, return_dict=False)
