"""The test app, and views that stream what a language model says, as docs/model-output.md has it.

OPENAI_BASE_URL   where the model's API is
LOGS=1            see app.py
"""

import contextlib
import logging
import sys

import app
import openai
import sentry_sdk
from app import application, asgi_application  # noqa: F401  (servers look them up here)
from django.http import StreamingHttpResponse
from django.urls import path

logger = logging.getLogger("model")

QUESTION = {
    "model": "small",
    "messages": [{"role": "user", "content": "Count!"}],
    "stream": True,
    "stream_options": {"include_usage": True},
}


def active_span():
    """The span that is active in the running context."""
    spans = sentry_sdk.traces if app.STREAMED_SPANS else sentry_sdk
    return spans.get_current_span()


@contextlib.contextmanager
def model_span():
    """End the span that is begun in the block also where the answer is not read to its end."""
    before = active_span()
    try:
        yield
    except BaseException as error:
        span = active_span()
        if span is not before:
            failed = isinstance(error, Exception)  # and the client has not gone
            span.__exit__(*(sys.exc_info() if failed else (None, None, None)))
        raise


def say(chunk):
    """The words of a chunk, which are logged and counted."""
    words = "".join(choice.delta.content for choice in chunk.choices)
    logger.warning("said %r", words)
    sentry_sdk.metrics.count("words", 1)
    return words


def answer(request):
    client = openai.OpenAI(api_key="none", max_retries=0)

    def body():
        with model_span(), client.chat.completions.create(**QUESTION) as stream:
            for chunk in stream:
                yield say(chunk)

    return StreamingHttpResponse(body(), content_type="text/plain")


async def answer_async(request):
    client = openai.AsyncOpenAI(api_key="none", max_retries=0)

    async def body():
        with model_span():
            async with await client.chat.completions.create(**QUESTION) as stream:
                async for chunk in stream:
                    yield say(chunk)

    return StreamingHttpResponse(body(), content_type="text/plain")


app.urlpatterns += [
    path("answer/", answer),
    path("answer-async/", answer_async),
]
