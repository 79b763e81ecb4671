#!/bin/sh
# cheroot keeps only the last of several request field lines, unless it knows the name
#
# Software: cheroot 11.1.2; wsgiref of the interpreter for comparison. Seen with CPython 3.11.7, 3.12.1 and 3.13.0.
# Expected: RFC 9110 section 5.3: a list field may be sent as several lines, and a recipient may join them with commas
#   without changing the meaning. A WSGI environ has one value for each name, so a server must join them. By RFC 7240
#   section 2, several lines of Prefer mean the same as one list; by RFC 8288 section 3, Link is a list too.
# Instead: cheroot joins about twenty fields from a fixed list, such as Accept. For every other field it keeps the last
#   line and drops the others, without an error or a log entry. This affects Prefer, Link and all fields newer than the
#   list.
# What to do: under cheroot (and so CherryPy), let clients and proxies send such a field as one line with commas.
#   Do not conclude from a missing element that the client did not send it.
set -eu
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || {
    echo "changed: needs CPython 3.11 to 3.13, this is $("$python" -V 2>&1)"; exit 1; }
folder=$(mktemp -d)
child=
trap 'test -z "$child" || kill "$child" 2>/dev/null || :; wait; rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --no-deps cheroot==11.1.2 jaraco.functools==4.6.0 more-itertools==11.2.1 || {
    echo "changed: these versions can't be installed any more"; exit 1; }

cat > "$folder/check.py" <<'EOF'
import http.client, importlib.metadata, json, platform, signal, sys, threading, wsgiref.simple_server

import cheroot.wsgi

signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
signal.signal(signal.SIGALRM, lambda *_: sys.exit("changed: took more than a minute"))
signal.alarm(60)
LINES = [("Accept", "text/html"), ("Accept", "text/plain"),
         ("Prefer", "respond-async"), ("Prefer", "wait=10"),
         ("Link", "</a>; rel=prev"), ("Link", "</b>; rel=next")]


def application(environ, start_response):
    answer = json.dumps([environ[name] for name in ("HTTP_ACCEPT", "HTTP_PREFER", "HTTP_LINK")]).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
    return [answer]


class Quiet(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *_):
        pass


def values(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest("GET", "/")
    for name, value in LINES:
        connection.putheader(name, value)
    connection.endheaders()
    result = json.loads(connection.getresponse().read())
    connection.close()
    return [value.replace(", ", ",") for value in result]


print("cheroot", importlib.metadata.version("cheroot"), "on CPython", platform.python_version())
with wsgiref.simple_server.make_server("127.0.0.1", 0, application, handler_class=Quiet) as server:
    threading.Thread(target=server.handle_request, daemon=True).start()
    reference = values(server.server_port)
server = cheroot.wsgi.Server(("127.0.0.1", 0), application, numthreads=1)
server.prepare()
thread = threading.Thread(target=server.serve, daemon=True)
thread.start()
try:
    seen = values(server.bind_addr[1])
finally:
    server.stop()
    thread.join(10)
print("lines:  ", *("%s: %s" % line for line in LINES), sep="\n    ")
print("wsgiref:", *reference, sep="\n    ")
print("cheroot:", *seen, sep="\n    ")
if reference != ["text/html,text/plain", "respond-async,wait=10", "</a>; rel=prev,</b>; rel=next"]:
    sys.exit("changed: wsgiref does not join all of them")
if seen != ["text/html,text/plain", "wait=10", "</b>; rel=next"]:
    sys.exit("changed: cheroot gives %s" % seen)
print("as stated: Accept is joined, the first Prefer and the first Link are lost")
EOF
"$folder/venv/bin/python" "$folder/check.py" &
child=$!
wait "$child" && status=0 || status=$?
child=
exit "$status"
