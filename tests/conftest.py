"""Make `scripts/sink.py` importable as `sink`, for every test below this directory.

The file is loaded by its path: with the checkout on `sys.path` the sources would hide
the installed package, which is what the tests are about.
"""

import importlib.util
import sys
from pathlib import Path

if "sink" not in sys.modules:
    _spec = importlib.util.spec_from_file_location(
        "sink", str(Path(__file__).resolve().parents[1] / "scripts" / "sink.py")
    )
    assert _spec is not None
    assert _spec.loader is not None
    _module = importlib.util.module_from_spec(_spec)
    sys.modules["sink"] = _module  # before it runs: dataclasses look their module up
    _spec.loader.exec_module(_module)
