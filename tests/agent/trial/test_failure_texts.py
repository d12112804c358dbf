"""What a failure leaves behind in words: the right outcome, what was missing, and nothing secret."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from paretune.agent.trial.failures import classify, sentence, tail
from paretune.agent.trial.log import hide_secrets
from paretune.objectives.memory_shortage import memory_shortage
from paretune.studies import Outcome, without_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("401 for token hf_AbCdEf123456", "401 for token hf_***"),
        ("postgresql://ann:s3cret@db/x failed", "postgresql://ann:***@db/x failed"),
        ("nothing to hide at https://example.org/a@b", "nothing to hide at https://example.org/a@b"),
    ],
)
def test_secrets_become_stars(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
    error = OSError(text)
    assert shown in sentence(error, "load")
    assert shown in tail(error)


def test_a_trials_log_keeps_no_token(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("loading\nHF_TOKEN=s3cret\nhttps://ann:s3cret@example.org/model\n")
    hide_secrets(log)
    assert log.read_text() == "loading\nHF_TOKEN=***\nhttps://ann:***@example.org/model\n"
    hide_secrets(tmp_path / "none.txt")


@pytest.mark.parametrize("phase", ["start", "load", "judge"])
def test_a_configuration_is_not_blamed_for_what_surrounds_it(phase: str) -> None:
    assert classify(FileNotFoundError("trial-0000/pictures"), phase) is Outcome.INFRASTRUCTURE


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError(), RuntimeError("x")])
def test_what_judging_lacks_is_not_the_configurations_fault(error: Exception) -> None:
    assert classify(error, "judge") is Outcome.INFRASTRUCTURE
    wrapped = RuntimeError("a metric failed")
    wrapped.__cause__ = error
    assert classify(wrapped, "judge") is Outcome.INFRASTRUCTURE


CUDA_TEXT = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 312.00 MiB is "
    "free. Including non-PyTorch memory, this process has 78.79 GiB memory in use. Of the allocated memory 76.02 GiB "
    "is allocated by PyTorch, and 2.11 GiB is reserved by PyTorch but unallocated."
)


def _free(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SimpleNamespace(available=3 * 2**29, total=16 * 2**30)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)


@pytest.mark.parametrize(
    ("error", "shortage", "said"),
    [
        (
            torch.OutOfMemoryError(CUDA_TEXT),
            {"asked_gib": 2, "free_gib": 312 / 1024, "total_gib": 79.11},
            "2.00 GiB were asked for and 0.30 GiB of 79.11 GiB were free",
        ),
        (
            torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 20 bytes. GPU 1 has a total capacity of 1.5 GiB of which 0 "
                "bytes is free."
            ),
            {"asked_gib": 20 / 2**30, "free_gib": 0, "total_gib": 1.5},
            "20 B were asked for and 0 B of 1.50 GiB were free",
        ),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
                "to allocate 4831838208 bytes. Error code 12 (Cannot allocate memory)"
            ),
            {"asked_gib": 4.5, "free_gib": 1.5, "total_gib": 16},
            "4.50 GiB were asked for and 1.50 GiB of 16.00 GiB were free",
        ),
        (
            RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 52428800 bytes."),
            {"asked_gib": 50 / 1024, "free_gib": 1.5, "total_gib": 16},
            "0.05 GiB were asked for and 1.50 GiB of 16.00 GiB were free",
        ),
        (
            MemoryError("Unable to allocate 728. TiB for an array with shape (100000000000000,) and data type float64"),
            {"asked_gib": 728 * 1024, "free_gib": 1.5, "total_gib": 16},
            "745472.00 GiB were asked for and 1.50 GiB of 16.00 GiB were free",
        ),
        (torch.OutOfMemoryError("Tried to allocate 3.00 MiB."), {"asked_gib": 3 / 1024}, "3.00 MiB were asked for"),
    ],
)
def test_an_out_of_memory_says_what_was_missing(
    monkeypatch: pytest.MonkeyPatch, error: Exception, shortage: dict[str, float], said: str
) -> None:
    _free(monkeypatch)
    assert memory_shortage(error) == pytest.approx(shortage)
    assert sentence(error, "first_call") == f"first_call: out of memory: {said}"
    for phase in ("load", "apply", "first_call", "measure", "pictures"):
        assert classify(error, phase) is Outcome.OOM
    assert classify(error, "judge") is Outcome.INFRASTRUCTURE


def test_the_shortage_is_found_behind_a_compilers_error() -> None:
    error = RuntimeError("backend='inductor' raised")
    error.__cause__ = torch.OutOfMemoryError(CUDA_TEXT)
    assert sentence(error, "first_call").startswith("first_call: out of memory: 2.00 GiB were asked for")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA error: out of memory"),
        MemoryError(),
        ValueError("you tried to allocate 5 bytes"),  # another kind of error, whatever it says
    ],
)
def test_without_sizes_the_error_is_shown_as_it_is(error: Exception) -> None:
    assert memory_shortage(error) is None
    assert sentence(error, "measure") == f"measure: {type(error).__name__}: {str(error) or 'no message'}"


def test_torchs_own_error_on_the_cpu() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**57, dtype=torch.uint8)
    shortage = memory_shortage(caught.value)
    assert shortage is not None
    assert shortage["asked_gib"] == 2**27
    assert 0 < shortage["free_gib"] <= shortage["total_gib"]


@pytest.mark.gpu
def test_torchs_own_error_on_the_gpu() -> None:
    with pytest.raises(torch.OutOfMemoryError) as caught:
        torch.empty(2**42, dtype=torch.uint8, device="cuda")
    shortage = memory_shortage(caught.value)
    assert shortage is not None
    assert shortage["asked_gib"] == 4096
    assert 0 < shortage["free_gib"] <= shortage["total_gib"]
