"""Transformers and SD 1.5 by the command line alone: what does not apply is refused first, and the winner verifies."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from paretune.search_space import (
    Goal,
    PipelineFacts,
    Target,
    default_space,
    describe_pipelines,
    fitting_recipes,
    technique,
)
from paretune.testing import tiny_flux, tiny_sd, tiny_sd3
from support.launching import run_cli, tiny_study, write_study

FAMILIES: dict[str, Callable[[], Any]] = {"sd15": tiny_sd, "sd3": tiny_sd3, "flux": tiny_flux}
CPU = Target(device="cpu", name="CPU", memory_gib=16.0, packages=frozenset({"torchao"}))
H100 = Target(device="cuda", name="NVIDIA H100", compute_capability=(9, 0), memory_gib=80.0, packages=CPU.packages)


def _facts(family: str) -> dict[str, PipelineFacts]:
    return describe_pipelines({"main": FAMILIES[family]()}, [])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_recipes_with_a_step_cache_that_it_can_use(family: str) -> None:
    facts = _facts(family)
    for target in (CPU, H100):
        space, _ = default_space(target)
        fitted = {(recipe.name, recipe.goal): one for recipe, one in fitting_recipes(space, target, facts)}
        cached = {one for (name, _), one in fitted.items() if "step cache" in name}
        assert len(cached) == 5
        cache = "deepcache" if family == "sd15" else "forecast_cache"
        assert all(cache in {step.technique for step in one.steps} for one in cached), "no recipe without its point"
        baselines = [one for (_, goal), one in fitted.items() if goal is Goal.BASELINE]
        # Nothing of torch.compile at its best is left on a CPU but a layout.
        assert [len(one.steps) for one in baselines] == ([2] if target is H100 else [])
        reason = technique("deepcache").why_not(target, facts, technique("deepcache").parameters())
        assert (reason is None) is (family == "sd15")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_study_by_the_command_line_ends_in_a_bundle_that_verifies(family: str, tmp_path: Path) -> None:
    pipeline = FAMILIES[family]()
    pipeline.save_pretrained(tmp_path / "model")
    main = {"class": type(pipeline).__name__, "model": "model", "dtype": "float32"}
    request = {"name": "cat", "prompt": "a cat", "width_px": 64, "height_px": 64, "steps": 4, "guidance": 4.0}
    names = ("deepcache", "taylorseer_cache", "mag_cache", "vae_dtype", "channels_last", "stable_fast")
    content = tiny_study(
        tmp_path / "model",
        name=family,
        workload={"pipelines": {"main": main}, "requests": [request]},
        space={"techniques": {name: {} for name in names}, "recipes": True},
        budget={"trials": 4},
    )
    write_study(tmp_path / "study.yaml", content)
    storage = {"PARETUNE_STORAGE": f"sqlite:///{tmp_path}/paretune.db"}
    ran = run_cli("launch", "study.yaml", "--trials", "4", cwd=tmp_path, timeout_s=900, **storage)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    listed = json.loads(run_cli("best", family, "--all", "--json", cwd=tmp_path, timeout_s=300, **storage).stdout)
    assert listed
    said = run_cli("export", family, "-o", "bundle", "--unconfirmed", cwd=tmp_path, timeout_s=300, **storage)
    assert said.returncode == 0, said.stdout + said.stderr
    verified = run_cli("verify", "bundle", "--json", cwd=tmp_path, timeout_s=300, **storage)
    checks = {check["name"]: check for check in json.loads(verified.stdout)["checks"]}
    assert all(check["passed"] for name, check in checks.items() if name != "latency_ms"), checks
