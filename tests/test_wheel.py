"""The wheel that people install has every module and every data file, and works where no checkout is."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.isolated import packages_without_paretune, python

ROOT = Path(__file__).parents[1]
FOLDERS = ("agent", "objectives", "search_space", "studies", "testing")
SHIPPED = ("__init__.py", "constraints.txt", "py.typed")
NOT_SHIPPED = ("benchmarks", "examples", "tests")
"""Folders with Python files that lie beside the package, and that a build must leave out."""


def tracked(*places: str) -> list[str]:
    """Every file in these places that git tracks, or would; by default, everything that is part of the package."""
    places = places or (*FOLDERS, *SHIPPED)
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *places]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in listed if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # From a copy: a build writes into the folder it builds from, and may find what an older build has left there.
    source = tmp_path_factory.mktemp("source")
    for name in (*tracked(), *tracked(*NOT_SHIPPED), "pyproject.toml", "README.md", "LICENSE"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist"]
    built = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (file,) = (source / "dist").glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Where the wheel was installed, alone, and the packages it depends on."""
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", "ours"]
    subprocess.run([*command, str(wheel)], cwd=folder, check=True, env={**os.environ, "PIP_NO_INPUT": "1"})
    return [folder / "ours", packages_without_paretune(folder / "packages")]


def test_every_file_is_in_it(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert not {f"paretune/{name}" for name in tracked()} - inside


def test_nothing_else_is_in_it(wheel: Path) -> None:
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert not inside - {f"paretune/{name}" for name in tracked()}


def test_command_line_works_where_only_the_wheel_is(installed: list[Path], tmp_path: Path) -> None:
    ran = python("-m", "paretune.agent.cli", "techniques", "--json", paths=installed, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert {"deepcache", "torch_compile"} <= {item["name"] for item in json.loads(ran.stdout)}


def test_the_studies_that_come_with_it_can_be_read(installed: list[Path], tmp_path: Path) -> None:
    script = (
        "import paretune; from paretune.studies import built_in_studies, read_study; print(paretune.__file__);"
        "print(*[read_study(name).name for name in built_in_studies()])"
    )
    ran = python("-c", script, paths=installed, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    file, names = ran.stdout.splitlines()
    assert Path(file).is_relative_to(installed[0])
    assert {"quickstart", "sdxl"} <= set(names.split())


def test_the_doctor_knows_the_tested_versions_where_only_the_wheel_is(installed: list[Path], tmp_path: Path) -> None:
    ran = python("-m", "paretune.agent.cli", "doctor", "--json", paths=installed, cwd=tmp_path)
    found = {finding["name"]: finding for finding in json.loads(ran.stdout)}
    assert found["torch"]["ok"] is True, found["torch"]["text"]
    assert "tested" in found["torch"]["text"]


def test_own_files_are_checked_where_only_the_wheel_is(installed: list[Path], tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("TECHNIQUES = ()")
    ran = python("-m", "paretune.testing", "own.py", paths=installed, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr


def test_console_script_is_declared(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
    assert "paretune = paretune.agent.cli:main" in archive.read(name).decode()
