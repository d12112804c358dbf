"""The page of this folder names tests that exist."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_every_test_that_is_named_exists() -> None:
    rows = [row for row in Path(__file__).with_name("README.md").read_text().splitlines() if row.startswith("| ")]
    behaviours = [row for row in rows if not row.startswith(("| ---", "| behaviour"))]
    assert all("::test_" in row for row in behaviours)
    named = re.findall(r"`(\S+\.py)::(test_\w+)`", "\n".join(behaviours))
    assert len(named) > 2 * len(behaviours)
    for file, test in named:
        found = ast.walk(ast.parse((TESTS / file).read_text()))
        assert test in [node.name for node in found if isinstance(node, ast.FunctionDef)], f"{file}::{test}"
