#!/bin/sh
# eventlet ends the response when an application calls write(b"")
#
# Software: eventlet 0.41.3; wsgiref of the interpreter for comparison. Seen with CPython 3.11.7, 3.12.1 and 3.13.0.
# Expected: by PEP 3333, section "The write() Callable", write() must treat its argument as if the iterable had yielded
#   it. An iterable may yield empty strings at any time (section "Middleware Handling of Block Boundaries" even requires
#   them in some cases). In the chunked coding, an empty block must not become a chunk, because a chunk of size 0 ends
#   the body (RFC 9112 section 7.1).
# Instead: eventlet drops empty blocks from the iterable, but sends those from write() as a chunk of size 0. For the
#   client the body is complete there, and it reads the rest as the beginning of the next response.
# What to do: do not call write() with an empty string under eventlet. Copy loops, compressors and template writers
#   that flush often do that. Send Content-Length, or return an iterable instead of using write().
set -eu
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || {
    echo "changed: needs CPython 3.11 to 3.13, this is $("$python" -V 2>&1)"; exit 1; }
folder=$(mktemp -d)
child=
trap 'test -z "$child" || kill "$child" 2>/dev/null || :; wait; rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --no-deps eventlet==0.41.3 greenlet==3.5.6 dnspython==2.9.2 || {
    echo "changed: these versions can't be installed any more"; exit 1; }

cat > "$folder/check.py" <<'EOF'
import warnings

warnings.simplefilter("ignore")  # eventlet says at import that it is being retired
import eventlet

eventlet.monkey_patch()
import eventlet.wsgi
import http.client, importlib.metadata, platform, signal, socket, sys, threading, wsgiref.simple_server

signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
signal.signal(signal.SIGALRM, lambda *_: sys.exit("changed: took more than a minute"))
signal.alarm(60)
BLOCKS = [b"one,", b"", b"two,", b"three"]


def application(environ, start_response):
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["PATH_INFO"] == "/iterable":
        return BLOCKS
    for block in BLOCKS:
        write(block)
    return []


class Quiet(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *_):
        pass


def body(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path)
    text = connection.getresponse().read()
    connection.close()
    return text


def raw(port, path):
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.sendall(b"GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % path.encode())
        return b"".join(iter(lambda: client.recv(65536), b"")).partition(b"\r\n\r\n")[2]


print("eventlet", importlib.metadata.version("eventlet"), "on CPython", platform.python_version())
listener = eventlet.listen(("127.0.0.1", 0))
port = listener.getsockname()[1]
eventlet.spawn(eventlet.wsgi.server, listener, application, log_output=False)
with wsgiref.simple_server.make_server("127.0.0.1", 0, application, handler_class=Quiet) as server:
    threading.Thread(target=server.handle_request, daemon=True).start()
    reference = body(server.server_port, "/write")
written, yielded, sent = body(port, "/write"), body(port, "/iterable"), raw(port, "/write")
print("blocks:", BLOCKS)
print("wsgiref, write():", reference)
print("eventlet, iterable:", yielded)
print("eventlet, write():", written)
print("eventlet, write(), as sent:", sent)
if (reference, yielded, written) != (b"one,two,three", b"one,two,three", b"one,") or b"\r\n0\r\n\r\n4\r\n" not in sent:
    sys.exit("changed: write(b'') does not end the body any more")
print("as stated: the client's body ends at the empty write()")
EOF
"$folder/venv/bin/python" "$folder/check.py" &
child=$!
wait "$child" && status=0 || status=$?
child=
exit "$status"
