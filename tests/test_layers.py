"""Imports point one way: app uses lora_core, and lora_core knows nothing of the page (docs/architecture.md)."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_core.runs import PROJECT

ENGINE = sorted((PROJECT / "lora_core").rglob("*.py"))
PAGE = frozenset({"app", "gradio"})
OPENS_THE_PAGE = PROJECT / "lora_core" / "cli.py"
"""``kumakobo gui`` is there to start the page."""


def imported(path: Path) -> Iterator[str]:
    """The first part of every absolute import of a file, wherever in it it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").partition(".")[0]


def test_the_engine_never_imports_the_page():
    assert len(ENGINE) > 100
    assert [path for path in ENGINE if PAGE & {*imported(path)}] == [OPENS_THE_PAGE]


@pytest.mark.parametrize("line", ["import app.jobs", "from app import jobs", "def f():\n    from gradio import Blocks"])
def test_an_import_is_seen_wherever_it_stands(tmp_path, line):
    (tmp_path / "a.py").write_text(line, encoding="utf-8")
    assert PAGE & {*imported(tmp_path / "a.py")}
