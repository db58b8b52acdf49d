"""scripts/faults.py: a table of the tests that bear the mark `fault`."""

import subprocess
import sys
from pathlib import Path
from typing import Tuple

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]

TESTS = """
import pytest

def test_none():
    pass

@pytest.mark.parametrize("name", [
    pytest.param("b", marks=pytest.mark.fault("b", client="1", log="2", sink="3")),
    pytest.param("a", marks=pytest.mark.fault("a", client="4", log="5", sink="6")),
])
def test_many(name):
    pass

@pytest.mark.fault("c", client="7", log="8", sink="9 "
                   "and 10")
def test_one():
    pass
"""

TABLE = """\
3 faults, each with its test:

| fault | the client gets | the log says | Sentry has | test |
|---|---|---|---|---|
| b | 1 | 2 | 3 | [`test_many`](../tests/live/test_it.py) |
| a | 4 | 5 | 6 | [`test_many`](../tests/live/test_it.py) |
| c | 7 | 8 | 9 and 10 | [`test_one`](../tests/live/test_it.py) |
"""

PAGE = "before\n<!-- faults -->\nold\n<!-- /faults -->\nafter\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "tests" / "live").mkdir(parents=True)
    (tmp_path / "scripts" / "faults.py").write_bytes(
        (CHECKOUT / "scripts" / "faults.py").read_bytes()
    )
    (tmp_path / "tests" / "live" / "test_it.py").write_text(TESTS)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "reliability.md").write_text(PAGE)
    return tmp_path


def run(project: Path, *arguments: str) -> Tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(project / "scripts" / "faults.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


def test_table(project: Path) -> None:
    """A row for each mark, in the order of the files."""
    assert run(project) == (0, TABLE)


def test_write_and_check(project: Path) -> None:
    """--check fails, and says what mends it, until --write has been run; that touches no more."""
    page = project / "docs" / "reliability.md"
    assert run(project, "--check") == (
        1,
        "docs/reliability.md: its table of faults is another one; next: faults.py --write\n",
    )
    assert page.read_text() == PAGE
    assert run(project, "--write") == (0, "docs/reliability.md: written\n")
    assert page.read_text() == PAGE.replace("old\n", TABLE)
    assert run(project, "--check") == (0, "")


def test_no_place_for_it(project: Path) -> None:
    """A page without the block is an error."""
    (project / "docs" / "reliability.md").write_text("nothing\n")
    for option in "--check", "--write":
        status, output = run(project, option)
        assert status == 1
        assert "found 0 blocks" in output


@pytest.mark.parametrize("option", ["--check", "--write"])
def test_page_that_is_not_there(project: Path, option: str) -> None:
    (project / "docs" / "reliability.md").unlink()
    status, output = run(project, option)
    assert status == 1
    assert output.endswith("next: git checkout -- docs/reliability.md\n")
    assert "Traceback" not in output


@pytest.mark.parametrize("text", [b"def test(:\n", b"\0", b"\xff"])
def test_file_that_is_no_python(project: Path, text: bytes) -> None:
    (project / "tests" / "live" / "test_it.py").write_bytes(text)
    status, output = run(project)
    assert status == 1
    assert output.startswith("tests/live/test_it.py: not Python: ")
    assert "Traceback" not in output


@pytest.mark.parametrize("mark", ['fault("d")', 'fault("d", client=name, log="", sink="")'])
def test_mark_that_is_not_complete(project: Path, mark: str) -> None:
    """The message names the place."""
    with (project / "tests" / "live" / "test_it.py").open("a") as file:
        file.write(f"\n@pytest.mark.{mark}\ndef test_it():\n    pass\n")
    status, output = run(project)
    assert status == 1
    assert output.startswith("tests/live/test_it.py:19: the mark of test_it is not complete;")
