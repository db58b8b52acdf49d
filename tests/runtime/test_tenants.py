"""Nothing of one tenant's request is in another one's data: a sample, see tenants.py."""

import subprocess
import sys

import pytest
import sentry_sdk
import tenants
from support.sdk import LIFECYCLES


# A response may be collected while the body of another one runs.
@pytest.mark.parametrize("on", ["thread", "loop"])
def test_interleaved(init, lifecycle, on, pytestconfig):
    """On one thread, and on one event loop."""
    thorough = pytestconfig.getoption("--hypothesis-profile", None) == "thorough"
    tenants.run(on, 2_000 if thorough else 100, lifecycle, seed=1)


def test_interleaved_on_a_gevent_hub():
    """In a process of its own, which gevent patches."""
    pytest.importorskip("gevent")
    done = subprocess.run(
        [sys.executable, tenants.__file__, "--on", "gevent", "--interleavings", "200"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("nothing of one tenant in the other's data") == len(LIFECYCLES)


@pytest.mark.parametrize("on", ["thread", "loop"])
def test_that_it_would_be_seen(init, monkeypatch, on):
    """The check is none if it passes whatever is done: here one scope is shared."""
    shared = sentry_sdk.Scope.get_global_scope()
    monkeypatch.setattr(sentry_sdk, "set_tag", shared.set_tag)
    with pytest.raises(AssertionError):
        tenants.run(on, 20, "static", seed=1)
    shared.remove_tag("tenant")
