#!/bin/sh
# A second start_response with exc_info adds headers (gunicorn, cheroot) or is ignored (a2wsgi)
#
# Software: gunicorn 27.0.1, cheroot 11.1.2, a2wsgi 1.10.10; wsgiref of the interpreter for comparison.
#   Seen with CPython 3.11.7, 3.12.1 and 3.13.0.
#
# Expected: PEP 3333, section "The start_response() Callable": if exc_info is given and no headers were sent yet,
#   the new status and headers replace the stored ones. In this way an application or a middleware can replace an
#   unfinished answer by an error page. wsgiref supports it.
# Instead: gunicorn and cheroot take the new status and append the new headers to the old ones. The client gets
#   two different Content-Length fields, an unrecoverable error by RFC 9112 section 6.3, and the cookie of the discarded
#   answer. http.client uses the first length and raises IncompleteRead.
#   a2wsgi keeps the first status and headers: it sends the error page as 200, with the wrong length.
# What to do: call start_response only when the answer is ready, and let error middleware hold back the first call,
#   so that one call reaches the server. Server authors: test exc_info with headers that differ in both calls.
set -eu
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || {
    echo "changed: needs CPython 3.11 to 3.13, this is $("$python" -V 2>&1)"; exit 1; }
folder=$(mktemp -d)
child=
trap 'test -z "$child" || kill "$child" 2>/dev/null || :; wait; rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --no-deps gunicorn==27.0.1 cheroot==11.1.2 \
    jaraco.functools==4.6.0 more-itertools==11.2.1 a2wsgi==1.10.10 typing_extensions==4.16.0 || {
    echo "changed: these versions can't be installed any more"; exit 1; }

cat > "$folder/app.py" <<'EOF'
import sys


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/html"), ("Content-Length", "1000"), ("Set-Cookie", "a=1")])
    try:
        raise LookupError("found out while the page is made")
    except LookupError:
        start_response("500 Oops", [("Content-Type", "text/plain"), ("Content-Length", "3")], sys.exc_info())
    return [b"err"]
EOF
cat > "$folder/check.py" <<'EOF'
import asyncio, http.client, importlib.metadata, os, platform, signal, socket, subprocess, sys, threading, time
import wsgiref.simple_server

import a2wsgi
import cheroot.wsgi
from app import application

folder = os.path.dirname(os.path.abspath(__file__))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
signal.signal(signal.SIGALRM, lambda *_: sys.exit("changed: took more than a minute"))
signal.alarm(60)
FIELDS = ("content-type", "content-length", "set-cookie")


def ask(port):
    """The status, the fields that the application set, and the outcome of reading the body."""
    for _ in range(100):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/", headers={"Connection": "close"})
            break
        except ConnectionRefusedError:
            time.sleep(0.1)
    response = connection.getresponse()
    fields = [(name.lower(), value) for name, value in response.getheaders() if name.lower() in FIELDS]
    try:
        body = response.read()
    except http.client.IncompleteRead as error:
        body = type(error).__name__
    connection.close()
    return response.status, fields, body


def under_wsgiref():
    class Quiet(wsgiref.simple_server.WSGIRequestHandler):
        def log_message(self, *_):
            pass

    with wsgiref.simple_server.make_server("127.0.0.1", 0, application, handler_class=Quiet) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        return ask(server.server_port)


def under_cheroot():
    server = cheroot.wsgi.Server(("127.0.0.1", 0), application, numthreads=1)
    server.prepare()
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        return ask(server.bind_addr[1])
    finally:
        server.stop()
        thread.join(10)


def under_gunicorn():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = open(os.path.join(folder, "log"), "w")
    server = subprocess.Popen([sys.executable, "-m", "gunicorn", "-b", "127.0.0.1:%d" % port, "app:application"],
                              cwd=folder, stdout=log, stderr=log)
    try:
        return ask(port)
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()


def under_a2wsgi():
    """a2wsgi turns a WSGI application into an ASGI application: collect what it sends."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    async def run():
        scope = {"type": "http", "http_version": "1.1", "method": "GET", "scheme": "http", "path": "/",
                 "root_path": "", "query_string": b"", "headers": [], "server": ("127.0.0.1", 80)}
        try:
            await a2wsgi.WSGIMiddleware(application)(scope, receive, send)
        except LookupError:
            pass  # it raises the application's exception again when everything is sent

    asyncio.run(run())
    fields = [(name.decode(), value.decode()) for name, value in sent[0]["headers"]]
    return sent[0]["status"], fields, b"".join(message.get("body", b"") for message in sent[1:])


first = [("content-type", "text/html"), ("content-length", "1000"), ("set-cookie", "a=1")]
second = [("content-type", "text/plain"), ("content-length", "3")]
seen = {
    under_wsgiref: (500, second, b"err"),
    under_gunicorn: (500, first + second, "IncompleteRead"),
    under_cheroot: (500, first + second, "IncompleteRead"),
    under_a2wsgi: (200, first, b"err"),
}
print("CPython", platform.python_version(), *("%s %s" % (name, importlib.metadata.version(name))
                                              for name in ("gunicorn", "cheroot", "a2wsgi")))
changed = []
for server, expected in seen.items():
    outcome = server()
    print(server.__name__, *outcome, sep="  ")
    if outcome != expected:
        changed.append("%s gives %s" % (server.__name__, outcome))
if changed:
    sys.exit("changed: " + "; ".join(changed))
print("as stated: two servers send both sets of headers, one sends the error page as 200")
EOF
"$folder/venv/bin/python" "$folder/check.py" &
child=$!
wait "$child" && status=0 || status=$?
child=
exit "$status"
