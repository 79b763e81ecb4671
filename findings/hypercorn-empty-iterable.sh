#!/bin/sh
# Hypercorn's WSGI mode turns every answer with an empty iterable into 500
#
# Software: Hypercorn 0.18.0, with Flask 3.1.3 as one of the applications; wsgiref of the interpreter for comparison.
#   Seen with CPython 3.11.7, 3.12.1 and 3.13.0.
#
# Expected: PEP 3333, section "The start_response() Callable": the headers are sent with the first non-empty block, or
#   when the iterable is exhausted. So an empty list is a valid body, and the usual one for a redirect, for 204 and 304,
#   and for HEAD. Hypercorn's description says that it supports the WSGI specification.
# Instead: Hypercorn sends the headers inside its loop over the blocks. Without a block it sends none, and the client
#   gets a bare 500: no Location, no cookie, although the application raised nothing and did its work. An iterable of
#   one empty block works. Flask returns an empty iterable for HEAD and 204, so each such answer is a 500.
#   (This has been reported upstream.)
# What to do: under Hypercorn, return [b""] instead of [] (or do it in a wrapper), or mount it with another
#   WSGI-to-ASGI adapter. Test a redirect, a 204, a 304 and a HEAD, not only a page.
#   Server authors: send the headers after the loop too.
set -eu
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || {
    echo "changed: needs CPython 3.11 to 3.13, this is $("$python" -V 2>&1)"; exit 1; }
folder=$(mktemp -d)
child=
trap 'test -z "$child" || kill "$child" 2>/dev/null || :; wait; rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --no-deps hypercorn==0.18.0 h11==0.16.0 h2==4.4.1 hpack==4.2.0 \
    hyperframe==6.1.0 priority==2.0.0 wsproto==1.3.2 typing_extensions==4.16.0 \
    flask==3.1.3 werkzeug==3.1.9 jinja2==3.1.6 markupsafe==3.0.4 \
    itsdangerous==2.2.0 blinker==1.9.0 click==8.5.1 || {
    echo "changed: these versions can't be installed any more"; exit 1; }

cat > "$folder/app.py" <<'EOF'
import flask

site = flask.Flask("site")


@site.get("/flask")
def page():
    return "text", {"ETag": '"1"'}


@site.delete("/flask")
def delete():
    return "", 204, {"ETag": '"1"'}


def application(environ, start_response):
    if environ["PATH_INFO"] == "/flask":
        return site(environ, start_response)
    status, location, last = environ["QUERY_STRING"].split(",")
    start_response(status + " Text", [("Location", location)] if location else [("ETag", '"1"')])
    return [b""] if last == "block" else []
EOF
cat > "$folder/check.py" <<'EOF'
import http.client, importlib.metadata, os, platform, signal, socket, subprocess, sys, threading, time
import wsgiref.simple_server

from app import application

folder = os.path.dirname(os.path.abspath(__file__))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
signal.signal(signal.SIGALRM, lambda *_: sys.exit("changed: took more than a minute"))
signal.alarm(60)
CASES = {  # what is asked for, and the right answer
    ("GET", "/?302,/next,none"): (302, "/next"),
    ("GET", "/?204,,none"): (204, '"1"'),
    ("GET", "/?304,,none"): (304, '"1"'),
    ("HEAD", "/?200,,none"): (200, '"1"'),
    ("HEAD", "/flask"): (200, '"1"'),
    ("DELETE", "/flask"): (204, '"1"'),
    ("GET", "/?302,/next,block"): (302, "/next"),
    ("GET", "/flask"): (200, '"1"'),
}


class Quiet(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *_):
        pass


def ask(port):
    results = []
    for method, path in CASES:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request(method, path)
        response = connection.getresponse()
        results.append((response.status, response.getheader("Location") or response.getheader("ETag")))
        connection.close()
    return results


print("Hypercorn", importlib.metadata.version("hypercorn"), "on CPython", platform.python_version())
with wsgiref.simple_server.make_server("127.0.0.1", 0, application, handler_class=Quiet) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    reference = ask(server.server_port)
    server.shutdown()
with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
log = open(os.path.join(folder, "log"), "w")
server = subprocess.Popen([os.path.join(sys.prefix, "bin", "hypercorn"), "--bind", "127.0.0.1:%d" % port,
                           "wsgi:app:application"], cwd=folder, stdout=log, stderr=log)
try:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except ConnectionRefusedError:
            time.sleep(0.1)
    seen = ask(port)
finally:
    server.terminate()
    try:
        server.wait(10)
    except subprocess.TimeoutExpired:
        server.kill()
print("status, and Location or ETag; \"none\" is an empty iterable, \"block\" one of an empty block:")
for (method, path), right, here in zip(CASES, reference, seen):
    print("    %s %s:  wsgiref %s  Hypercorn %s" % (method, path, right, here))
if reference != list(CASES.values()):
    sys.exit("changed: wsgiref gives %s" % reference)
if seen != [(500, None)] * 6 + reference[6:]:
    sys.exit("changed: Hypercorn gives %s" % seen)
print("as stated: 500 for every empty iterable, the right answer for one empty block and for a page")
EOF
"$folder/venv/bin/python" "$folder/check.py" &
child=$!
wait "$child" && status=0 || status=$?
child=
exit "$status"
