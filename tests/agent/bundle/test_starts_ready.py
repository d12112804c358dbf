"""From a study that compiles to a bundle that does not: launch, export, verify and verify --cold, for real."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from paretune.agent.bundle import ways
from support.compiling_product import REQUESTS, product_of

if TYPE_CHECKING:
    from conftest import Cli

PRODUCT = product_of(32, "self.mix(sample.cumsum(-1)).sigmoid()")
STUDY = {
    "schema": 1,
    "name": "compiled",
    "device": "cpu",
    "workload": {"python": "product.py", "requests": REQUESTS},
    "space": {
        "techniques": {"torch_compile": {"region": "whole", "mode": "default"}},
        "presets": [[{"torch_compile": {"region": "whole", "mode": "default"}}]],
        "recipes": False,
    },
    "measurement": {"floor_processes": 3, "most_seconds": 1},
    "quality": {"reordering_floor": False},
    "finalists": {"count": 0},
    "budget": {"trials": 2},
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_bundle_of_what_compiles_is_exported_with_its_code_and_compiles_nothing(
    tmp_path: Path, cli: "Cli", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARETUNE_STORAGE", "sqlite:///p.db")
    monkeypatch.setattr(ways, "WAYS", ("standalone_compile",))
    Path("product.py").write_text(PRODUCT)
    Path("compiled.yaml").write_text(yaml.safe_dump(STUDY))
    launched = cli("launch", "compiled.yaml")
    assert launched.code == 0, launched.err
    exported = cli("export", "compiled", "--trial", "1", "--unconfirmed", "-o", "bundle")
    assert exported.code == 0, exported.err
    assert "Trying 1 of 1 ways to keep compiled code took " in exported.out
    assert "standalone_compile is in the bundle: a cold start takes " in exported.out
    assert "artefacts" in [file.name for file in Path("bundle").iterdir()]
    before = sorted((str(file), file.stat().st_mtime_ns) for file in Path("bundle").rglob("*"))
    cold = cli("verify", "bundle", "--cold")
    assert cold.code == 0, cold.out
    assert "compiled: nothing while loading, and nothing at 2 requests, each served twice" in cold.out
    assert "artefacts: every call fits one" in cold.out
    assert "pictures: 3 of 3 pictures, the worst is " in cold.out
    assert cli("verify", "bundle").code == 0
    assert sorted((str(file), file.stat().st_mtime_ns) for file in Path("bundle").rglob("*")) == before
