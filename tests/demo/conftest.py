"""The modules of scripts/demo_project."""

import importlib
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2] / "scripts" / "demo_project"


@pytest.fixture
def project(monkeypatch):
    """Imports the modules of scripts/demo_project, for one test."""
    names = {path.stem for path in PROJECT.glob("*.py")}
    for name in names & set(sys.modules):
        monkeypatch.delitem(sys.modules, name)  # other tests have a seen.py, too
    monkeypatch.syspath_prepend(str(PROJECT))
    yield importlib.import_module
    for name in names & set(sys.modules):
        del sys.modules[name]
