#!/bin/sh
# gevent answers 500 when an application sends Content-Length with 304
#
# Software: gevent 26.9.0 (gevent.pywsgi); wsgiref of the interpreter for comparison.
#   Seen with CPython 3.11.7, 3.12.1 and 3.13.0.
#
# Expected: RFC 9110 section 8.6 allows Content-Length in a 304, with the length that the 200 would have had. By RFC
#   9112 section 6.3 a 304 never has a body, so nothing is ambiguous. The same section 8.6 forbids Content-Length
#   with 204.
# Instead: gevent does the opposite. Its start_response raises AssertionError for the 304, which becomes a 500, and it
#   accepts Content-Length: 0 with 204.
# What to do: under gevent.pywsgi, drop Content-Length from a 304. It affects handlers that copy all fields of the 200,
#   and applications that pass on the 304 of another server. Only revalidations fail and the first load works, so a test
#   with an empty cache passes.
set -eu
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || {
    echo "changed: needs CPython 3.11 to 3.13, this is $("$python" -V 2>&1)"; exit 1; }
folder=$(mktemp -d)
child=
trap 'test -z "$child" || kill "$child" 2>/dev/null || :; wait; rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --no-deps gevent==26.9.0 greenlet==3.5.6 zope.event==6.2 zope.interface==8.7 || {
    echo "changed: these versions can't be installed any more"; exit 1; }

cat > "$folder/check.py" <<'EOF'
from gevent import monkey

monkey.patch_all()
import http.client, importlib.metadata, io, platform, signal, sys, threading, wsgiref.simple_server

import gevent
import gevent.pywsgi

signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
signal.signal(signal.SIGALRM, lambda *_: sys.exit("changed: took more than a minute"))
signal.alarm(60)
PAGE = b"some text\n"
caught = []


def application(environ, start_response):
    try:
        if environ["REQUEST_METHOD"] == "DELETE":
            start_response("204 No Content", [("Content-Length", "0")])
            return []
        fields = [("ETag", '"1"'), ("Content-Length", str(len(PAGE)))]
        if environ.get("HTTP_IF_NONE_MATCH") == '"1"':
            start_response("304 Not Modified", fields)
            return []
        start_response("200 OK", fields)
        return [PAGE]
    except Exception as error:
        caught.append(error)
        raise


class Quiet(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *_):
        pass


def ask(port):
    results = []
    for method, fields in (("GET", {}), ("GET", {"If-None-Match": '"1"'}), ("DELETE", {})):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request(method, "/", headers={"Connection": "close", **fields})
        response = connection.getresponse()
        results.append((response.status, response.getheader("Content-Length")))
        connection.close()
    return results


print("gevent", importlib.metadata.version("gevent"), "on CPython", platform.python_version())
with wsgiref.simple_server.make_server("127.0.0.1", 0, application, handler_class=Quiet) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    reference = ask(server.server_port)
    server.shutdown()
gevent.get_hub().exception_stream = io.StringIO()  # the traceback
server = gevent.pywsgi.WSGIServer(("127.0.0.1", 0), application, log=None)
server.start()
seen = ask(server.server_port)
server.stop()
print("status and Content-Length of a first GET, of one with If-None-Match, and of a DELETE")
print("wsgiref:", *reference, sep="  ")
print("gevent: ", *seen, sep="  ")
print("what start_response raised:", *caught)
if seen != [(200, "10"), (500, "21"), (204, "0")] or reference[1] != (304, "10") or not caught:
    sys.exit("changed: gevent gives %s" % seen)
print("as stated: the 304 has become a 500")
EOF
"$folder/venv/bin/python" "$folder/check.py" &
child=$!
wait "$child" && status=0 || status=$?
child=
exit "$status"
