"""Techniques meet what others did to a pipeline: one thread for torch, and graphs that are traced only."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def quiet_torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread of torch's, nothing of Dynamo's left from other tests, and no code generated, which takes minutes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compile = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, **options: compile(function, **{**options, "backend": "eager"})
    )
    yield
    torch.set_num_threads(threads)
