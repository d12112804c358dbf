"""The page of the comic benchmark says what its rows say."""

import argparse
import importlib
from pathlib import Path
from typing import Any

import pytest


def trace(variant: str, ms: float, stall_ms: float, recompiles: int = 0) -> dict[str, Any]:
    """A block: plain, plain, ann after a swap, and ann once more, which is no part of the trace."""
    calls = [("plain", True, False, ms), ("plain", False, False, ms)]
    calls += [("ann", True, False, ms + stall_ms), ("ann", False, True, ms)]
    return {
        "step": "trace",
        "variant": variant,
        "calls": [dict(zip(("request", "swap", "extra", "ms"), call, strict=True)) for call in calls],
        **{"recompiles": recompiles, "recaptures": 0, "peak_gib": 12.5, "unets": 2},
        **{"unet_bytes_held": 5_140_000_000, "unet_bytes_of_one": 5_140_000_000},
    }


def test_mixes_swaps_and_new_workers_are_compared_with_torch_compile(tmp_path: Path) -> None:
    comic = importlib.import_module("comic")
    names = ("reference", "torch.compile", "lossless")
    options = argparse.Namespace(
        variants={name: comic.VARIANTS[name] for name in names}, size="full", device="cuda", blocks=2, work=tmp_path
    )
    rows = [trace(name, ms, 300) for name, ms in zip(names, (2000, 1500, 900), strict=True) for _ in range(2)]
    rows.append(trace("torch.compile", 1500, 300, recompiles=3))
    times = {"import_s": 14.0, "weights_s": 3.0, "load_s": 1.0}
    for name, seconds in (("torch.compile", 120.0), ("lossless", 5.0)):
        until = {"until_first_image_s": seconds, "until_all_s": 2 * seconds}
        rows.append(
            {
                "step": "worker" if name == "lossless" else "warm",
                "beside": 7,
                "variant": name,
                **times,
                **until,
                "counters": {},
                "gpu": "H100",
            }
        )
    page = importlib.import_module("comic_page").page(rows, options, {name: tmp_path / name for name in names})
    assert "| lossless | 1.000 | 0.476 | 0.625 | 150 | 0 | 0 | 12.5 | 5.14 GB (1.00 times, by 2 pipelines) |" in page
    assert "| torch.compile | 1.600 | 0.762 | 1.000 | 150 | 3 | 0 |" in page
    assert "| torch.compile | 1 | 7 | 14.0 | 3.0 | 1.0 | 120.0 | 1/1.0 | 240.0 | 1/1.0 |" in page
    assert "| lossless | 1 | 7 | 14.0 | 3.0 | 1.0 | 5.0 | 1/24.0 | 10.0 | 1/24.0 |" in page
    assert page.splitlines()[2].startswith("`python benchmarks/comic.py --size full --device cuda --blocks 2`: H100")


@pytest.mark.parametrize("on", ["VARIANTS", "ON_CPU"])
def test_its_configurations_are_what_paretune_knows(on: str) -> None:
    from paretune.search_space import Configuration

    comic = importlib.import_module("comic")
    variants = {name: Configuration.of(one) for name, one in getattr(comic, on).items()}
    assert variants["reference"] == Configuration()
    assert variants["lossless"].loss.is_none
    assert not variants["step cache"].loss.is_none
