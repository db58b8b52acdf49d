"""scripts/sections.py: what the pages show is what was measured."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Tuple

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for name in ("benchmarks", "docs", "scripts", "tests"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(str(CHECKOUT / name), str(tmp_path / name), ignore=ignored)
    return tmp_path


def sections(clone: Path, *arguments: str) -> Tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-S", str(clone / "scripts" / "sections.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert "Traceback" not in done.stdout
    return done.returncode, done.stdout


def test_sections_are_written_and_checked(clone: Path) -> None:
    """Those of the pages are up to date; another result makes another section."""
    page = clone / "docs" / "reliability.md"
    before = page.read_text("utf-8")
    assert sections(clone, "--check") == (0, "")
    results = clone / "benchmarks" / "results" / "soak.json"
    results.write_text(results.read_text("utf-8").replace('"lost": 0', '"lost": 7'))
    status, output = sections(clone, "--check")
    assert (status, page.read_text("utf-8")) == (1, before)
    assert output.endswith("another section soak\n  next: python3 scripts/sections.py\n")
    assert sections(clone) == (0, "docs/reliability.md: section soak written\n")
    assert " | 7 | 0 | " in page.read_text("utf-8")
    assert sections(clone, "--check") == (0, "")


def test_page_is_kept_if_its_section_cannot_be_made(clone: Path) -> None:
    page = clone / "docs" / "reliability.md"
    before = page.read_text("utf-8")
    (clone / "benchmarks" / "results" / "outage.json").write_text("{")
    status, output = sections(clone)
    assert (status, page.read_text("utf-8")) == (1, before)
    assert output.startswith("error: docs/reliability.md, section soak: cannot be made")


def test_mark_of_a_fault_that_is_not_complete_is_named(clone: Path) -> None:
    (clone / "tests" / "live" / "test_aaa.py").write_text('@fault("d")\ndef test_it():\n    pass\n')
    status, output = sections(clone, "--check")
    assert status == 1
    assert 'tests/live/test_aaa.py:1: expected fault("...", client="...", ' in output
