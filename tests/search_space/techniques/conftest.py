"""Fixtures for tests that run the tiny pipeline."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def quiet_torch() -> Iterator[None]:
    """One thread (more only wait for each other on work this small), and nothing of Dynamo's left from other tests."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def traced_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile traces graphs and runs them as they are: nothing is generated, which would take a minute."""
    compile = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, **options: compile(function, **{**options, "backend": "eager"})
    )
