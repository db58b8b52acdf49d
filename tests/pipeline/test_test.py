"""scripts/test.py, where nothing has been installed yet."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "test.py"


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_installs_nothing(tmp_path: Path, option: str) -> None:
    shutil.copytree(str(SCRIPT.parent), str(tmp_path / "scripts"))
    command = [sys.executable, str(tmp_path / "scripts" / "test.py"), option]
    output = subprocess.check_output(command, universal_newlines=True, timeout=60)
    assert "python3 scripts/test.py -e pipeline" in output
    assert "tox" in output
    assert not (tmp_path / ".cache").exists()
