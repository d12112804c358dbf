"""What a workload may return: anything that is certainly pictures, and nothing else, whatever was returned before."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from paretune.objectives.measuring import InvalidOutputError
from paretune.objectives.measuring.contract import checked_pictures, difference
from PIL import Image


@dataclass(frozen=True)
class Request:
    name: str = "cat"
    batch: int = 2
    arguments: dict[str, Any] = field(default_factory=dict)


LEVELS = torch.randint(0, 256, (2, 32, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
PICTURES = torch.from_numpy(LEVELS).permute(0, 3, 1, 2).float() / 255
FLOATS = LEVELS.astype(np.float32) / 255


def _palette() -> Image.Image:
    picture = Image.new("P", (32, 32))
    picture.info["transparency"] = 0
    return picture


ACCEPTED = {
    "the contract": PICTURES,
    "with a gradient": PICTURES.clone().requires_grad_(),
    "a rounding beyond 1": PICTURES + 0.003,
    "float64": PICTURES.double(),
    "uint8": torch.from_numpy(LEVELS).permute(0, 3, 1, 2),
    "numpy floats": FLOATS,
    "numpy uint8": LEVELS,
    "numpy, read from behind": LEVELS[:, ::-1][:, ::-1],
    "a list of numpy arrays": list(FLOATS),
    "PIL": [Image.fromarray(levels) for levels in LEVELS],
    "a tensor of another class": PICTURES.as_subclass(type("Own", (torch.Tensor,), {})),
    "PIL, with an opaque alpha": tuple(Image.fromarray(levels).convert("RGBA") for levels in LEVELS),
}


@pytest.mark.parametrize("returned", ACCEPTED.values(), ids=ACCEPTED)
def test_what_is_certainly_pictures_is_accepted_and_becomes_a_tensor(returned: Any) -> None:
    made = checked_pictures(returned, Request())
    assert made.is_floating_point()
    assert not made.requires_grad
    assert float((made.float() - PICTURES).abs().max()) <= 0.0031


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_as_it_is(dtype: torch.dtype) -> None:
    assert checked_pictures(PICTURES.to(dtype), Request()).dtype is dtype


def test_one_pillow_picture_is_a_batch_of_one() -> None:
    assert checked_pictures(Image.fromarray(LEVELS[0]), Request(batch=1)).shape == (1, 3, 32, 48)


REFUSED = {
    "0 to 255": (255 * PICTURES, "a torch.float32 tensor of shape (2, 3, 32, 48) with values from 0 to 255"),
    "-1 to 1": (2 * PICTURES - 1, "with values from -1 to 1"),
    "NaN": (PICTURES * torch.nan, "in which 9216 of 9216 values are NaN or infinite"),
    "one infinity": (PICTURES.index_fill(3, torch.tensor(5), torch.inf), "192 of 9216 values are NaN or infinite"),
    "numpy, 0 to 255": (255 * FLOATS, "a float32 numpy array of shape (2, 32, 48, 3) with values from 0 to 255"),
    "channels last": (PICTURES.permute(0, 2, 3, 1), "a torch.float32 tensor of shape (2, 32, 48, 3)"),
    "with transparency": (torch.ones(2, 4, 32, 32), "a torch.float32 tensor of shape (2, 4, 32, 32)"),
    "latents": (torch.zeros(2, 4, 8, 8), "a torch.float32 tensor of shape (2, 4, 8, 8)"),
    "one without its batch": (PICTURES[0], "a torch.float32 tensor of shape (3, 32, 48)"),
    "integers": (PICTURES.long(), "a torch.int64 tensor of shape (2, 3, 32, 48)"),
    "numpy, 16 bits": (LEVELS.astype(np.uint16), "a uint16 numpy array of shape (2, 32, 48, 3)"),
    "numpy, the other way round": (FLOATS.astype(">f4"), "a >f4 numpy array of shape (2, 32, 48, 3)"),
    "8 bits": (PICTURES.to(torch.float8_e4m3fn), "a torch.float8_e4m3fn tensor of shape (2, 3, 32, 48)"),
    "sparse": (PICTURES.to_sparse(), "a torch.float32 tensor of shape (2, 3, 32, 48)"),
    "without values": (PICTURES.to("meta"), "a torch.float32 tensor of shape (2, 3, 32, 48)"),
    "tiny": (PICTURES[..., :8], "at least 16 px a side"),
    "nothing": (None, "nothing (None)"),
    "no pictures": ([], "an empty list"),
    "a pipeline's output": ({"images": PICTURES}, "an object of the type dict"),
    "paths": (["cat.png", "dog.png"], "a list in which there is an object of the type str"),
    "depth maps": ([Image.fromarray(FLOATS[0, :, :, 0])] * 2, "a list in which there is an object of the type Image"),
    "glass": ([Image.new("RGBA", (32, 32), (9, 9, 9, 99))] * 2, "there is a picture that can be seen through"),
    "a colour that is glass": ([_palette()] * 2, "there is a picture that can be seen through"),
    "sizes": ([Image.new("RGB", (32, 32)), Image.new("RGB", (32, 48))], "a list of 2 Image of different sizes"),
}


@pytest.mark.parametrize(("returned", "came"), REFUSED.values(), ids=REFUSED)
def test_anything_else_is_refused_in_a_sentence_that_names_the_contract(returned: Any, came: str) -> None:
    with pytest.raises(InvalidOutputError) as refused:
        checked_pictures(returned, Request())
    text = str(refused.value)
    assert text.startswith("request cat gave ")
    assert came in text
    for accepted in ("(B, 3, H, W)", "[0, 1]", "PIL", "numpy", "uint8"):
        assert accepted in text
    assert "\n" not in text


def test_as_many_pictures_as_the_request_promises() -> None:
    several = Request(batch=1, arguments={"num_images_per_prompt": 2})
    assert len(checked_pictures(PICTURES, several)) == 2
    with pytest.raises(InvalidOutputError, match="gave 2 pictures, and its batch says 1: let batch say how many"):
        checked_pictures(PICTURES, Request(batch=1))


def test_repetitions_are_compared_and_never_in_another_size() -> None:
    assert difference(PICTURES, PICTURES.clone(), Request()) == 0
    assert difference(1 - PICTURES, PICTURES, Request()) == pytest.approx(1)
    with pytest.raises(InvalidOutputError, match="gave pictures of 32 x 32 px, and 32 x 48 px the first time"):
        difference(PICTURES[..., :32], PICTURES, Request())
