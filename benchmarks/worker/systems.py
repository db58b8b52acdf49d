"""The systems that are compared: how each is set up, with an exporter that drops.

``install`` returns the application as a server would get it. What a system has handed to
its exporter is in ``exported``.
"""

import logging

import project


class Exported:
    """What the exporter has been handed: traces, and spans of the newest trace."""

    def __init__(self):
        self.traces = 0
        #: Looked at outside of what is measured only, since it costs.
        self.inspect = False
        self.spans = 0


exported = Exported()


def _sentry(integration, rate, lifecycle):
    import sentry_sdk
    from sentry_sdk.transport import Transport

    class Dropping(Transport):
        """Takes envelopes as they are, serialised payloads included, and drops them."""

        def capture_envelope(self, envelope):
            for item in envelope.items:
                kind = item.headers.get("type")
                if kind == "transaction":
                    exported.traces += 1
                    if exported.inspect:
                        exported.spans = len(item.payload.json["spans"])
                elif kind == "span" and exported.inspect:
                    exported.spans += len(item.payload.json["items"])

        def record_lost_event(self, *args, **kwargs):
            pass

    options = {}
    if lifecycle == "stream":
        options["_experiments"] = {"trace_lifecycle": "stream"}
    sentry_sdk.init(
        dsn="http://key@127.0.0.1:9/1",
        transport=Dropping(),
        traces_sample_rate=rate,
        integrations=[integration()],
        **options,
    )


def bare(rate, lifecycle):
    pass


def stock(rate, lifecycle):
    from sentry_sdk.integrations.django import DjangoIntegration

    _sentry(DjangoIntegration, rate, lifecycle)


def ours(rate, lifecycle):
    from vendored_integration import DjangoIntegration

    _sentry(DjangoIntegration, rate, lifecycle)


def ours_return(rate, lifecycle):
    from vendored_integration import DjangoIntegration

    _sentry(lambda: DjangoIntegration(finish_on="return"), rate, lifecycle)


SYSTEMS = {
    "bare": bare,
    "stock": stock,
    "ours": ours,
    "ours-return": ours_return,
}


def install(name, rate, lifecycle="static", kind="wsgi"):
    """Set Django and the system up; the WSGI or ASGI application."""
    # Django logs each error to stderr otherwise, in any system.
    logging.getLogger().addHandler(logging.NullHandler())
    project.configure()
    wrap = SYSTEMS[name](rate, lifecycle)
    application = getattr(project, kind)()
    return wrap(application) if wrap else application
