"""The scheduler: deadlines at the cost of a few threads, whatever the jobs do."""

import threading
import time

import pytest

from vendored_integration.runtime import scheduler as module
from vendored_integration.runtime.scheduler import MAX_WORKERS, Entry, Scheduler

SECONDS = 10  # how long to wait for what must come


class Alarm(Entry):
    """An entry that notes when it expired, and may do something then."""

    __slots__ = ("expired", "expired_at", "then")

    def __init__(self, then=None):
        super().__init__()
        self.expired = threading.Event()
        self.expired_at = None
        self.then = then

    def expire(self):
        self.expired_at = time.monotonic()
        self.expired.set()
        if self.then is not None:
            self.then()


@pytest.fixture
def scheduler():
    scheduler = Scheduler()
    scheduler.poll()
    return scheduler


@pytest.fixture
def release():
    """An event for jobs to hang on; set when the test is over."""
    release = threading.Event()
    yield release
    release.set()


def started_threads():
    return [
        thread
        for thread in threading.enumerate()
        if thread.name.startswith("vendored_integration.")
    ]


def test_not_before_the_deadline(scheduler):
    """An entry expires after its deadline."""
    alarms = [Alarm() for _ in range(20)]
    deadlines = [time.monotonic() + 0.02 * number for number in range(20)]
    for alarm, deadline in zip(alarms, deadlines):
        scheduler.schedule(alarm, deadline)
    for alarm, deadline in zip(alarms, deadlines):
        assert alarm.expired.wait(SECONDS)
        assert alarm.expired_at >= deadline


def test_an_earlier_deadline_overtakes(scheduler):
    """The timer wakes for a deadline that is earlier than what it sleeps for."""
    late, early = Alarm(), Alarm()
    scheduler.schedule(late, time.monotonic() + 3600)
    scheduler.schedule(early, time.monotonic() + 0.05)
    assert early.expired.wait(SECONDS)
    assert not late.expired.is_set()
    scheduler.cancel(late)


def test_deadline_in_the_past(scheduler):
    """One that has passed already expires at once."""
    alarm = Alarm()
    scheduler.schedule(alarm, time.monotonic() - 100)
    assert alarm.expired.wait(SECONDS)


def test_cancelled_does_not_expire(scheduler):
    """Neither does it, nor does cancelling it again do harm."""
    cancelled, other = Alarm(), Alarm()
    deadline = time.monotonic() + 0.1
    scheduler.schedule(cancelled, deadline)
    scheduler.schedule(other, deadline)
    scheduler.cancel(cancelled)
    scheduler.cancel(cancelled)
    assert other.expired.wait(SECONDS)
    assert not cancelled.expired.is_set()
    scheduler.cancel(other)
    scheduler.cancel(Alarm())


def test_cancelling_leaves_nothing_behind():
    """A wheel of 10,000 cancelled entries is as small as a new one."""
    import sys

    scheduler = Scheduler()
    alarms = [Alarm() for _ in range(10_000)]
    now = time.monotonic()
    for number, alarm in enumerate(alarms):
        scheduler.schedule(alarm, now + 300 + number / 100)
    for alarm in alarms:
        scheduler.cancel(alarm)
    assert not scheduler._buckets
    assert sys.getrefcount(alarms[0]) == sys.getrefcount(Alarm()) + 1


def test_threads_are_started_lazily():
    """Importing or making a scheduler starts nothing; using it starts two threads."""
    before = len(started_threads())
    scheduler = Scheduler()
    scheduler.schedule(Alarm(), time.monotonic() + 3600)
    assert len(started_threads()) == before
    scheduler.poll()
    assert len(started_threads()) == before + 2
    assert all(thread.daemon for thread in started_threads())


def test_hanging_jobs_do_not_hold_up_the_others(scheduler, release):
    """As long as one worker is left; and there are never more than MAX_WORKERS."""
    before = len(started_threads())
    hanging = [Alarm(release.wait) for _ in range(MAX_WORKERS - 1)]
    for alarm in hanging:
        scheduler.schedule(alarm, time.monotonic())
    for alarm in hanging:
        assert alarm.expired.wait(SECONDS)
    others = [Alarm() for _ in range(100)]
    for alarm in others:
        scheduler.schedule(alarm, time.monotonic() + 0.01)
    for alarm in others:
        assert alarm.expired.wait(SECONDS)
    assert len(started_threads()) <= before + MAX_WORKERS - 1


def test_all_workers_hanging_is_survived(scheduler, release):
    """Then nothing expires until one comes back; the timer and submitters go on."""
    hanging = [Alarm(release.wait) for _ in range(MAX_WORKERS + 5)]
    for alarm in hanging:
        scheduler.schedule(alarm, time.monotonic())
    for alarm in hanging[:MAX_WORKERS]:
        assert alarm.expired.wait(SECONDS)
    later = Alarm()
    scheduler.schedule(later, time.monotonic())
    scheduler.poll()
    assert not later.expired.is_set()
    release.set()
    assert later.expired.wait(SECONDS)


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_a_job_that_raises_ends_nothing(scheduler, caplog, error):
    """It is logged, and the worker goes on."""

    def fail():
        raise error("from a hook")

    failing, next_one = Alarm(fail), Alarm()
    scheduler.schedule(failing, time.monotonic())
    assert failing.expired.wait(SECONDS)
    scheduler.schedule(next_one, time.monotonic())
    assert next_one.expired.wait(SECONDS)
    assert "from a hook" in caplog.text


def test_nothing_ends_the_timer_thread(caplog):
    """Not even an error of our own: here the clock fails once."""
    broken = threading.Event()

    def clock():
        if broken.is_set():
            broken.clear()
            raise RuntimeError("clock")
        return time.monotonic()

    scheduler = Scheduler(clock)
    scheduler.poll()
    broken.set()
    alarm = Alarm()
    scheduler.schedule(alarm, time.monotonic() + 0.05)
    assert alarm.expired.wait(SECONDS)
    assert "internal error in the timer thread" in caplog.text


def test_submit_before_any_thread_runs():
    """What __del__ submits before the first request is done with the first request."""
    scheduler = Scheduler()
    done = threading.Event()
    scheduler.submit(done.set)
    scheduler.poll()
    assert done.wait(SECONDS)


def test_where_no_thread_runs_requests_do_the_work(monkeypatch):
    """uWSGI without --enable-threads: poll() stands in for the timer and the workers."""
    monkeypatch.setattr(module, "threads_can_run", lambda: False)
    before = len(started_threads())
    scheduler = Scheduler()
    alarm, late, done = Alarm(), Alarm(), threading.Event()
    scheduler.poll()
    scheduler.schedule(alarm, time.monotonic() - 1)
    scheduler.schedule(late, time.monotonic() + 3600)
    scheduler.submit(done.set)
    assert not alarm.expired.is_set()
    scheduler.poll()
    assert alarm.expired.is_set()
    assert done.is_set()
    assert not late.expired.is_set()
    assert len(started_threads()) == before


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, True),  # not uWSGI
        ({"http": b":80"}, False),
        ({"http": b":80", "enable-threads": True}, True),
        ({"http": b":80", "threads": b"4"}, True),
        ({b"http": b":80", b"enable-threads": b"true"}, True),
    ],
)
def test_threads_under_uwsgi(monkeypatch, options, expected):
    """uWSGI says in uwsgi.opt how it was started."""
    import types

    uwsgi = types.ModuleType("uwsgi")
    uwsgi.opt = options
    monkeypatch.setitem(module.sys.modules, "uwsgi", uwsgi)
    assert module.threads_can_run() is expected


def test_no_thread_can_be_started(monkeypatch, caplog):
    """At a process limit requests do the work, and the log says so once."""

    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    scheduler = Scheduler()
    scheduler.poll()
    alarm = Alarm()
    scheduler.schedule(alarm, time.monotonic() - 1)
    scheduler.poll()
    assert alarm.expired.is_set()
    assert "cannot start a thread" in caplog.text


def test_drain_waits_for_its_jobs(scheduler):
    """drain() returns when its jobs are done."""
    done = []
    assert scheduler.drain([lambda: done.append(1), lambda: done.append(2)], SECONDS)
    assert sorted(done) == [1, 2]
    assert scheduler.drain([], 0)


def test_drain_gives_up(scheduler, release):
    """A hanging job holds it up no longer than the timeout."""
    assert not scheduler.drain([release.wait], 0.05)


def test_drain_where_no_thread_runs():
    """A scheduler that was never used runs the jobs itself."""
    done = []
    assert Scheduler().drain([lambda: done.append(1)], 0)
    assert done == [1]


def test_concurrent_schedule_and_cancel(scheduler):
    """Many threads at once: every entry expires or was cancelled, none is lost."""
    expired = []

    def work():
        for number in range(500):
            alarm = Alarm()
            scheduler.schedule(alarm, time.monotonic() + 0.001 * (number % 50))
            if number % 2:
                scheduler.cancel(alarm)
            else:
                expired.append(alarm)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for alarm in expired:
        assert alarm.expired.wait(SECONDS)
    assert not scheduler._buckets
