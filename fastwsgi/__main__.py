"""``python -m fastwsgi``: serve the demo application."""

from __future__ import annotations

import argparse

from . import __version__, implementation
from .simple_server import WSGIServer, demo_app, make_server


def main() -> None:
    """Parse the command line and serve until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m fastwsgi", description="Serve fastwsgi's demo application.")
    parser.add_argument(
        "--bind", metavar="HOST:PORT", default="127.0.0.1:8000", help="port 0: a free one (default: %(default)s)"
    )
    parser.add_argument("--version", action="version", version=f"fastwsgi {__version__} ({implementation})")
    host, _, port = parser.parse_args().bind.rpartition(":")
    host = host.strip("[]")
    try:
        server: WSGIServer = make_server(host, int(port), demo_app)
    except (OSError, OverflowError, ValueError) as error:
        parser.error(f"can't bind to {host}:{port}: {error}")
    with server:
        shown = f"[{server.server_name}]" if ":" in server.server_name else server.server_name
        print(f"fastwsgi {__version__} ({implementation}) serving on http://{shown}:{server.server_port}/", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped")


if __name__ == "__main__":
    main()
