"""Make `scripts/sink.py` and `traces.py` importable, for every test below this directory.

The files are loaded by their paths: with the checkout on `sys.path` the sources would hide
the installed package, which is what the tests are about.
"""

import importlib.util
import sys
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"

for _name in "sink", "traces":
    if _name not in sys.modules:
        _spec = importlib.util.spec_from_file_location(_name, str(SCRIPTS / f"{_name}.py"))
        assert _spec is not None
        assert _spec.loader is not None
        _module = importlib.util.module_from_spec(_spec)
        sys.modules[_name] = _module  # before it runs: dataclasses look their module up
        _spec.loader.exec_module(_module)
