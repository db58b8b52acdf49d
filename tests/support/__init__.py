"""What the tests share: an ingest, Django projects, a WSGI and an ASGI client, programs."""
