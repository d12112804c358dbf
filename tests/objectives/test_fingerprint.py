"""The fingerprint: stable, readable, and made without touching CUDA."""

import dataclasses
import json
import subprocess
import sys

import pytest
from paretune.objectives import Fingerprint


@pytest.fixture(scope="module")
def here() -> Fingerprint:
    return Fingerprint.current("cpu")


def test_current(here: Fingerprint) -> None:
    import torch

    assert here.device_kind == "cpu"
    assert here.device_name == here.cpu_model
    assert here.cpu_threads == torch.get_num_threads()
    assert here.packages["torch"]
    assert here.compute_capability is None


def test_round_trip_and_key(here: Fingerprint) -> None:
    again = Fingerprint.from_dict(json.loads(json.dumps(here.to_dict())))
    assert again == here
    assert again.key == here.key == Fingerprint.current("cpu").key
    assert len(here.key) == 64
    shuffled = dataclasses.replace(here, packages=dict(reversed(here.packages.items())))
    assert shuffled.key == here.key


def test_differences_are_sentences(here: Fingerprint) -> None:
    other = dataclasses.replace(here, driver="580.1", packages={**here.packages, "torchao": "9.9"})
    assert here.differences(here) == []
    assert "driver: none here, 580.1 there" in here.differences(other)
    assert any(sentence.startswith("torchao: ") for sentence in here.differences(other))
    assert other.key != here.key


def test_every_field_is_compared(here: Fingerprint) -> None:
    for field in dataclasses.fields(here):
        if field.name != "packages":
            assert here.differences(dataclasses.replace(here, **{field.name: "other"})), field.name


def test_errors(here: Fingerprint) -> None:
    with pytest.raises(ValueError, match="schema"):
        Fingerprint.from_dict({**here.to_dict(), "schema_version": 99})
    with pytest.raises(ValueError, match="surprise"):
        Fingerprint.from_dict({**here.to_dict(), "surprise": 1})
    with pytest.raises(ValueError, match="mps"):
        Fingerprint.current("mps")


@pytest.mark.gpu
def test_no_cuda_context_is_created() -> None:
    code = (
        "import torch; from paretune.objectives import Fingerprint; f = Fingerprint.current('cuda');"
        "assert not torch.cuda.is_initialized(); assert not torch.cuda._is_in_bad_fork();"
        "assert f.device_name == torch.cuda.get_device_name(0), f;"
        "assert f.compute_capability == '.'.join(map(str, torch.cuda.get_device_capability(0)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
