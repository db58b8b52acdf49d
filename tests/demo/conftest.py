"""The demo's modules."""

import importlib
import importlib.util
import sys
from pathlib import Path

import pytest
from stages import DEMO, SCRIPTS

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


@pytest.fixture
def demo(monkeypatch):
    """scripts/demo.py as a module, with no signal handlers installed."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    spec = importlib.util.spec_from_file_location("demo", str(DEMO))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "SIGNALS", [])
    return module
