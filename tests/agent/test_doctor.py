"""What the doctor says of versions: tested, newer, older, too old, not there."""

import json
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from paretune.agent import doctor
from paretune.objectives import versions
from paretune.objectives.versions import Dependency
from support.launched import Cli

ROOT = Path(__file__).parents[2]
TORCH = Dependency(Requirement("torch>=2.11"), Version("2.13.0"))


@pytest.mark.parametrize(
    ("version", "will_do", "text"),
    [
        ("2.13.0", True, "2.13.0, tested"),
        ("2.13.0+cu130", True, "2.13.0+cu130, tested"),
        ("2.15.0", True, "2.15.0, newer than the tested 2.13.0"),
        ("2.15.0.dev20261120+cu130", True, "2.15.0.dev20261120+cu130, newer than the tested 2.13.0"),
        ("2.11.0", True, "2.11.0, older than the tested 2.13.0"),
        ("2.10.1", False, "2.10.1, but paretune needs torch>=2.11"),
    ],
)
def test_what_is_said_of_a_version(version: str, will_do: bool, text: str) -> None:
    assert TORCH.judge(version) == (will_do, text)


@pytest.mark.parametrize(
    ("version", "text"),
    [
        ("3.11.7", "3.11.7, tested"),
        ("3.12.3", "3.12.3, tested"),
        ("3.14.0", "3.14.0, newer than the tested 3.11 and 3.12"),
    ],
)
def test_what_is_said_of_python(version: str, text: str) -> None:
    assert versions.judge_python(version) == text


def findings(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, **installed: str | None
) -> tuple[int, dict[str, tuple[bool, str]]]:
    """The doctor's exit code and findings, as if these versions were installed beside the others."""
    here = doctor.installed
    monkeypatch.setattr(doctor, "installed", lambda name: installed[name] if name in installed else here(name))
    said = cli("doctor", "--json")
    return said.code, {finding["name"]: (finding["ok"], finding["text"]) for finding in json.loads(said.out)}


def test_a_newer_version_is_a_note(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    code, found = findings(cli, monkeypatch, safetensors="99.0")
    assert found["safetensors"] == (True, f"99.0, newer than the tested {versions.tested_versions()['safetensors']}")
    assert code == 0


@pytest.mark.parametrize(
    ("installed", "text"),
    [("0.1", "0.1, but paretune needs safetensors>="), (None, "not installed, and paretune needs it")],
)
def test_what_is_too_old_or_missing_is_refused(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, installed: str | None, text: str
) -> None:
    code, found = findings(cli, monkeypatch, safetensors=installed)
    assert found["safetensors"][0] is False
    assert found["safetensors"][1].startswith(text)
    assert code == 1


def test_what_an_extra_would_add_may_be_missing(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    code, found = findings(cli, monkeypatch, torchao=None)
    assert found["torchao"] == (None, "not installed; pip install 'paretune[torchao]'")
    assert code == 0


def test_every_direct_dependency_has_a_tested_version_that_will_do() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]
    requirements = {canonicalize_name(r.name): r for r in map(Requirement, asked)}
    tested = versions.tested_versions()
    assert tested.keys() == requirements.keys()
    assert all(requirement.specifier.contains(tested[name]) for name, requirement in requirements.items())
