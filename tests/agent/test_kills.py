"""SIGKILLs at random moments: nothing lost, nothing measured twice, no process left.

benchmarks/kills.py is the same with 20 of them, and prints the table.
"""

import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "kills.py"


def test_a_launch_an_export_and_a_verification_that_are_killed_lose_nothing_and_leave_nothing() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--kills", "3", "--per-launch", "1", "--seed", "7"],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "0 of 3 lost something, measured twice or left a process; 0 commands ended with a traceback." in done.stdout
    assert [line.split()[3] for line in done.stdout.splitlines() if line[:3] in ("| 1", "| 2", "| 3")] == [
        "launch:",
        "export:",
        "verify:",
    ]
