"""A Python that has every installed package but paretune."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path


def packages_without_paretune(folder: Path) -> Path:
    """Fill a folder with links to every entry of site-packages that is not ours; returns it."""
    folder.mkdir()
    for site_packages in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(site_packages).iterdir():
            if "paretune" not in entry.name and entry.suffix != ".pth":
                (folder / entry.name).symlink_to(entry)
    return folder


def python(*arguments: str, paths: list[Path], cwd: Path, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """Run Python with `paths` as its only packages: no site-packages, and not the current folder."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-S", "-P", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
