#!/bin/sh
# Werkzeug's threaded server sends the chunked coding to HTTP/1.0 clients
#
# Software: Werkzeug 3.1.9 (werkzeug.serving, which "flask run" uses); wsgiref of the interpreter for comparison.
#   Seen with CPython 3.11.7, 3.12.1 and 3.13.0.
#
# Expected: RFC 9112 section 6.1: a server may send Transfer-Encoding only if the request was HTTP/1.1 or later.
#   To an HTTP/1.0 client, a body of unknown length is sent as it is, and the end of the connection ends it.
# Instead: with threaded=True, Werkzeug checks its own version, not the request's. Every answer without
#   Content-Length is chunked, and an HTTP/1.0 client gets the chunk sizes in its data: here, in the middle of JSON.
#   With threaded=False the same request is answered correctly.
# What to do: give answers a Content-Length, or use a client with HTTP/1.1. This affects old monitors, load testers,
#   and proxies that use HTTP/1.0 upstream. Server authors: decide by the request's version.
set -eu
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || {
    echo "changed: needs CPython 3.11 to 3.13, this is $("$python" -V 2>&1)"; exit 1; }
folder=$(mktemp -d)
child=
trap 'test -z "$child" || kill "$child" 2>/dev/null || :; wait; rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --no-deps werkzeug==3.1.9 markupsafe==3.0.4 || {
    echo "changed: these versions can't be installed any more"; exit 1; }

cat > "$folder/check.py" <<'EOF'
import importlib.metadata, platform, signal, socket, sys, threading, wsgiref.simple_server

import werkzeug.serving

signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
signal.signal(signal.SIGALRM, lambda *_: sys.exit("changed: took more than a minute"))
signal.alarm(60)


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    return iter([b"[1,", b" 2]"])


class QuietReference(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *_):
        pass


class Quiet(werkzeug.serving.WSGIRequestHandler):
    def log(self, *_):
        pass


def ask(server):
    """The Transfer-Encoding field and the body as an HTTP/1.0 client sees them."""
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with socket.create_connection(("127.0.0.1", server.server_port), 10) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        head, _, body = b"".join(iter(lambda: client.recv(65536), b"")).partition(b"\r\n\r\n")
    server.shutdown()
    server.server_close()
    lines = [line.decode() for line in head.split(b"\r\n") if line.lower().startswith(b"transfer-encoding")]
    return lines, body


print("Werkzeug", importlib.metadata.version("werkzeug"), "on CPython", platform.python_version())
reference = ask(wsgiref.simple_server.make_server("127.0.0.1", 0, application, handler_class=QuietReference))
results = {threaded: ask(werkzeug.serving.make_server("127.0.0.1", 0, application, threaded=threaded,
                                                      request_handler=Quiet)) for threaded in (False, True)}
print("wsgiref:                 ", *reference)
print("Werkzeug, threaded=False:", *results[False])
print("Werkzeug, threaded=True: ", *results[True])
if reference != ([], b"[1, 2]") or results[False] != ([], b"[1, 2]"):
    sys.exit("changed: the servers that answered correctly do not any more")
if results[True] != (["Transfer-Encoding: chunked"], b"3\r\n[1,\r\n3\r\n 2]\r\n0\r\n\r\n"):
    sys.exit("changed: the threaded server gives %s" % (results[True],))
print("as stated: the threaded server sends chunks to an HTTP/1.0 client")
EOF
"$folder/venv/bin/python" "$folder/check.py" &
child=$!
wait "$child" && status=0 || status=$?
child=
exit "$status"
