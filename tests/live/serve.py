"""Run `app:application` on a server that has no command line of its own.

python serve.py waitress|cheroot|wsgiref
"""

import signal
import sys
import threading


def main(name):
    # An ordinary exit, so that the SDK sends what it has.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

    from app import application

    if name == "waitress":
        import logging

        import waitress

        logging.basicConfig(level=logging.INFO)
        server = waitress.create_server(application, host="127.0.0.1", port=0, threads=4)
        announce(int(server.effective_port))
        server.run()
    elif name == "cheroot":
        from cheroot import wsgi

        server = wsgi.Server(("127.0.0.1", 0), application, numthreads=4)
        # Its error log goes to stderr, without a logger: nothing for Sentry to see.
        server.prepare()
        announce(server.bind_addr[1])
        try:
            server.serve()
        finally:
            server.stop()
    elif name == "wsgiref":
        from wsgiref.simple_server import make_server

        server = make_server("127.0.0.1", 0, application)
        # It runs requests on this thread, and takes SystemExit for an error in one of them.
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
        announce(server.server_port)
        server.serve_forever()
    else:
        raise SystemExit(f"serve.py: no server named {name!r}: waitress, cheroot or wsgiref")


def announce(port):
    print(f"listening on port {port}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
