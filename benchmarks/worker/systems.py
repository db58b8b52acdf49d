"""The systems that are compared: how each is set up, with an exporter that drops.

An exporter gets what the system makes by itself, and does nothing with it. So of Sentry's
SDK the transaction's serialisation is measured, but not JSON, compression and HTTP; of the
others no encoding, which they leave to the exporter.
"""

import logging

import project


class Exported:
    """What the exporter has been handed."""

    def __init__(self):
        #: Requests: transactions, segments, or spans without a parent.
        self.traces = 0
        #: All other spans.
        self.spans = 0
        #: Have what is still under way handed over.
        self.flush = lambda: None


exported = Exported()


def _sentry(integration, rate, lifecycle):
    import sentry_sdk
    from sentry_sdk.transport import Transport

    class Dropping(Transport):
        def capture_envelope(self, envelope):
            for item in envelope.items:
                kind = item.headers.get("type")
                if kind == "transaction":
                    exported.traces += 1
                    exported.spans += len(item.payload.json["spans"])
                elif kind == "span":
                    spans = item.payload.json["items"]
                    roots = sum(1 for span in spans if span.get("is_segment"))
                    exported.traces += roots
                    exported.spans += len(spans) - roots

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
    exported.flush = sentry_sdk.flush


def bare(rate, lifecycle):
    pass


def stock(rate, lifecycle):
    from sentry_sdk.integrations.django import DjangoIntegration

    _sentry(DjangoIntegration, rate, lifecycle)


def ours(rate, lifecycle):
    from vendored_integration import DjangoIntegration

    _sentry(DjangoIntegration, rate, lifecycle)


def ours_close(rate, lifecycle):
    from vendored_integration import DjangoIntegration

    _sentry(lambda: DjangoIntegration(finish_on="close"), rate, lifecycle)


def older(rate, lifecycle):
    from shr_span_recorder import StreamAwareDjangoIntegration

    _sentry(StreamAwareDjangoIntegration, rate, lifecycle)


def otel(rate, lifecycle):
    from opentelemetry import trace
    from opentelemetry.instrumentation.django import DjangoInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    class Dropping(SpanExporter):
        def export(self, spans):
            for span in spans:
                if span.parent is None:
                    exported.traces += 1
                else:
                    exported.spans += 1
            return SpanExportResult.SUCCESS

    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(rate)))
    provider.add_span_processor(BatchSpanProcessor(Dropping()))
    trace.set_tracer_provider(provider)
    exported.flush = provider.force_flush
    DjangoInstrumentor().instrument()

    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware as Asgi
    from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware as Wsgi

    # Django's instrumentation ends its span when the middleware returns; the stream is
    # in the span of the server's.
    return {"wsgi": Wsgi, "asgi": Asgi}


def ddtrace(rate, lifecycle):
    import os

    os.environ.update(
        DD_TRACE_SAMPLING_RULES=f'[{{"sample_rate": {rate}}}]',
        DD_TRACE_RATE_LIMIT="-1",
        DD_INSTRUMENTATION_TELEMETRY_ENABLED="false",
        DD_REMOTE_CONFIGURATION_ENABLED="false",
        DD_TRACE_STARTUP_LOGS="false",
    )
    from ddtrace import patch
    from ddtrace.internal.writer import TraceWriter
    from ddtrace.trace import tracer

    class Dropping(TraceWriter):
        def recreate(self, *args, **kwargs):
            return self

        def stop(self, timeout=None):
            pass

        def write(self, spans=None):
            # What is not sampled is handed over as well: the agent makes statistics of it.
            if spans and spans[0].context.sampling_priority > 0:
                exported.traces += 1
                exported.spans += len(spans) - 1

        def flush_queue(self, raise_exc=False):
            pass

    tracer._span_aggregator.writer = Dropping()
    patch(django=True)

    from ddtrace.contrib.asgi import TraceMiddleware as Asgi
    from ddtrace.contrib.wsgi import DDWSGIMiddleware as Wsgi

    return {"wsgi": Wsgi, "asgi": Asgi}


SYSTEMS = {
    "bare": bare,
    "stock": stock,
    "ours": ours,
    "ours-close": ours_close,
    "older": older,
    "otel": otel,
    "ddtrace": ddtrace,
}


def install(name, rate, lifecycle="static", kind="wsgi"):
    """Set Django and the system up; the WSGI or ASGI application."""
    # Django logs each error to stderr otherwise, in any system.
    logging.getLogger().addHandler(logging.NullHandler())
    project.settings_only()
    wrap = SYSTEMS[name](rate, lifecycle)
    project.setup()
    application = getattr(project, kind)()
    return wrap[kind](application) if wrap else application
