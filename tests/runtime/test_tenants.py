"""Nothing of one tenant's request is in another one's data: a sample, see tenants.py."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import tenants
from harness import LIFECYCLES

SCRIPT = Path(__file__).parent / "tenants.py"


@pytest.fixture
def loggers():
    """The script is a program of its own, and turns off what is logged."""
    yield
    for name in "tenants", "django.request", "vendored_integration":
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True


def test_no_interleavings_are_refused():
    """They would find nothing, and say so."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--interleavings", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=110,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "--interleavings 0: expected a number from 1 on" in done.stderr


# A response may be collected while the body of another one runs.
@pytest.mark.parametrize("on", ["thread", "loop"])
def test_interleaved(init, loggers, lifecycle, on, pytestconfig):
    """On one thread, and on one event loop."""
    quick = pytestconfig.getoption("--hypothesis-profile", None) == "quick"
    tenants.run(on, 50 if quick else 500, lifecycle, seed=1)


def test_interleaved_on_a_gevent_hub():
    """In a process of its own, which gevent patches."""
    pytest.importorskip("gevent")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--on", "gevent", "--interleavings", "400", "--seed", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("nothing of one tenant in the other's data") == len(LIFECYCLES)


@pytest.mark.parametrize("on", ["thread", "loop"])
def test_that_it_would_be_seen(init, loggers, monkeypatch, on):
    """The check is none if it passes whatever is done."""

    def bind(tenant):
        bind.original(tenant)
        bind.tenants.append(tenant)
        if len(bind.tenants) % 2 == 0:
            # As if a scope were shared.
            bind.tenants[-1].mark, bind.tenants[-2].mark = (
                bind.tenants[-2].mark,
                bind.tenants[-1].mark,
            )

    bind.original, bind.tenants = tenants.Tenant.bind, []
    monkeypatch.setattr(tenants.Tenant, "bind", bind)
    with pytest.raises(AssertionError):
        tenants.run(on, 20, "static", seed=1)
