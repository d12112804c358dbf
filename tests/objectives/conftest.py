"""Drawn pictures: no photographs, no downloads, the same on every machine."""

from collections.abc import Iterator

import pytest
import torch
from paretune.testing import draw_comic, draw_scene
from torch import Tensor


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of small tensors wait for each other longer than they work, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def comic() -> Tensor:
    return draw_comic()


@pytest.fixture(scope="session")
def scene() -> Tensor:
    return draw_scene()
