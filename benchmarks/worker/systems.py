"""The systems that are compared, each with an exporter that drops what it gets.

So of Sentry's SDK the transaction's serialisation is measured, but not JSON, compression and HTTP;
of the others no encoding, which they leave to the exporter.
"""

import importlib
import logging
import os

import project


class Exported:
    """What the exporter has received."""

    #: Besides those of requests.
    spans = 0

    def flush(self):
        """Have what is still under way exported."""


exported = Exported()


#: Those of Sentry's SDK: the integration's module and class, and its options.
INTEGRATIONS = {
    "stock": ("sentry_sdk.integrations.django", "DjangoIntegration", {}),
    "ours": ("vendored_integration", "DjangoIntegration", {}),
    "ours-close": ("vendored_integration", "DjangoIntegration", {"finish_on": "close"}),
    "older": ("shr_span_recorder", "StreamAwareDjangoIntegration", {}),
}


def sentry(system, rate, lifecycle):
    import sentry_sdk
    from sentry_sdk.transport import Transport

    module, name, options = INTEGRATIONS[system]
    integration = getattr(importlib.import_module(module), name)(**options)

    class Dropping(Transport):
        def capture_envelope(self, envelope):
            for item in envelope.items:
                if item.type == "transaction":
                    exported.spans += len(item.payload.json["spans"])
                elif item.type == "span":
                    spans = item.payload.json["items"]
                    exported.spans += sum(not span.get("is_segment") for span in spans)

        def record_lost_event(self, *args, **kwargs):
            pass

    sentry_sdk.init(
        dsn="http://key@127.0.0.1:9/1",
        transport=Dropping(),
        traces_sample_rate=rate,
        integrations=[integration],
        _experiments={"trace_lifecycle": "stream"} if lifecycle == "stream" else {},
    )
    exported.flush = sentry_sdk.flush


def otel(rate):
    from opentelemetry import trace
    from opentelemetry.instrumentation.django import DjangoInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    class Dropping(SpanExporter):
        def export(self, spans):
            exported.spans += sum(span.parent is not None for span in spans)
            return SpanExportResult.SUCCESS

    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(rate)))
    provider.add_span_processor(BatchSpanProcessor(Dropping()))
    trace.set_tracer_provider(provider)
    exported.flush = provider.force_flush
    DjangoInstrumentor().instrument()

    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware as Asgi
    from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware as Wsgi

    # Django's instrumentation ends its span when the middleware returns: the stream is in the
    # span of the server's.
    return Wsgi, Asgi


def ddtrace(rate):
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
            # What is not sampled comes here, too: the agent makes statistics of it.
            if spans and spans[0].context.sampling_priority > 0:
                exported.spans += len(spans) - 1

        def flush_queue(self, raise_exc=False):
            pass

    tracer._span_aggregator.writer = Dropping()
    patch(django=True)

    from ddtrace.contrib.asgi import TraceMiddleware as Asgi
    from ddtrace.contrib.wsgi import DDWSGIMiddleware as Wsgi

    return Wsgi, Asgi


def install(system, rate, lifecycle="static"):
    """Set the system and Django up; the WSGI and the ASGI application."""
    # Otherwise Django logs each error to stderr.
    logging.getLogger().addHandler(logging.NullHandler())
    project.configure()
    middlewares = None
    if system in INTEGRATIONS:
        sentry(system, rate, lifecycle)
    elif system != "bare":
        middlewares = {"otel": otel, "ddtrace": ddtrace}[system](rate)
    found = project.applications()
    if middlewares:
        return [wrap(application) for wrap, application in zip(middlewares, found)]
    return found
