"""Which versions of our dependencies are needed, which were tested, and what that says about those installed here."""

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
"""The versions that the tests run with. It is in the wheel too, so that an installed paretune knows them."""
TESTED_PYTHON = ("3.11", "3.12")


@dataclass(frozen=True)
class Dependency:
    """A package that paretune needs, or that one of its extras needs."""

    requirement: Requirement
    tested: Version
    extra: str | None = None

    @property
    def name(self) -> str:
        """As pip names it."""
        return self.requirement.name

    def judge(self, version: str) -> tuple[bool, str]:
        """Whether a version will do, and the version with what is known of it.

        What pyproject.toml does not ask for will not do; a version that is newer than the tested one will.
        """
        if not self.requirement.specifier.contains(version, prereleases=True):
            return False, f"{version}, but paretune needs {self.name}{self.requirement.specifier}"
        return True, f"{version}, {_compared(Version(version), self.tested)}"


def dependencies(extra: str | None = None) -> list[Dependency]:
    """What paretune needs, or what one of its extras needs besides, in the order of pyproject.toml."""
    tested = tested_versions()
    requirements = [Requirement(text) for text in metadata.requires("paretune") or []]
    return [
        Dependency(requirement, tested[canonicalize_name(requirement.name)], extra)
        for requirement in requirements
        if (requirement.marker is None if extra is None else _is_of(requirement, extra))
    ]


def tested_versions() -> dict[str, Version]:
    """{package: version} of constraints.txt."""
    lines = [line.partition("#")[0].strip() for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines()]
    pins = [line.split("==") for line in lines if line]
    return {canonicalize_name(name): Version(version) for name, version in pins}


def judge_python(version: str) -> str:
    """A version of Python with what is known of it. One that is too old cannot get here: pip does not install on it."""
    minor = ".".join(version.split(".")[:2])
    known = "tested" if minor in TESTED_PYTHON else f"newer than the tested {' and '.join(TESTED_PYTHON)}"
    return f"{version}, {known}"


def _is_of(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is not None and requirement.marker.evaluate({"extra": extra})


def _compared(version: Version, tested: Version) -> str:
    """A build's suffix (+cpu, +cu130) makes no difference."""
    public = Version(version.public)
    if public == tested:
        return "tested"
    return f"{'newer' if public > tested else 'older'} than the tested {tested}"
