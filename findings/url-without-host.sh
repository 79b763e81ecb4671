#!/bin/sh
# Without a Host field, cheroot's and Hypercorn's environ gives no usable URL
#
# Software: cheroot 11.1.2, Hypercorn 0.18.0 (WSGI mode); wsgiref of the interpreter for the function that makes
#   the URL, and for comparison. Seen with CPython 3.11.7, 3.12.1 and 3.13.0.
#
# Expected: PEP 3333, section "environ Variables": SERVER_NAME and SERVER_PORT are strings, and they complete the URL
#   if HTTP_HOST is missing. By RFC 3875 section 4.1.14, SERVER_NAME is a host name or address.
#   wsgiref.util.request_uri() relies on this. An HTTP/1.0 request needs no Host (RFC 9112 section 3.2).
# Instead: cheroot sets SERVER_NAME to its product name, so the URL is http://Cheroot/11.1.2:PORT/path, with another
#   host and the port in the path. cheroot documents the parameter server_name only as the text of the Server
#   field, but it is both. Hypercorn's SERVER_PORT is an int, and request_uri() raises TypeError.
# What to do: test your application with an HTTP/1.0 request without Host. Simple health checks are such requests, and
#   an application that makes absolute URLs (redirects, links in mails) fails for them only. Pass
#   server_name="your.host" to cheroot's Server, wrap the application with str(environ["SERVER_PORT"]) under Hypercorn.
set -eu
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || {
    echo "changed: needs CPython 3.11 to 3.13, this is $("$python" -V 2>&1)"; exit 1; }
folder=$(mktemp -d)
child=
trap 'test -z "$child" || kill "$child" 2>/dev/null || :; wait; rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --no-deps cheroot==11.1.2 jaraco.functools==4.6.0 more-itertools==11.2.1 \
    hypercorn==0.18.0 h11==0.16.0 h2==4.4.1 hpack==4.2.0 hyperframe==6.1.0 priority==2.0.0 wsproto==1.3.2 \
    typing_extensions==4.16.0 || {
    echo "changed: these versions can't be installed any more"; exit 1; }

cat > "$folder/app.py" <<'EOF'
from wsgiref.util import request_uri


def application(environ, start_response):
    try:
        url = request_uri(environ)
    except TypeError:
        url = "TypeError"
    answer = ("%r %r %s" % (environ["SERVER_NAME"], environ["SERVER_PORT"], url)).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(answer)))])
    return [answer]
EOF
cat > "$folder/check.py" <<'EOF'
import importlib.metadata, os, platform, signal, socket, subprocess, sys, threading, time, wsgiref.simple_server

import cheroot.wsgi
from app import application

folder = os.path.dirname(os.path.abspath(__file__))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
signal.signal(signal.SIGALRM, lambda *_: sys.exit("changed: took more than a minute"))
signal.alarm(60)


class Quiet(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *_):
        pass


def ask(port):
    """The answer to an HTTP/1.0 request without Host, with the port's number replaced."""
    for _ in range(100):
        try:
            client = socket.create_connection(("127.0.0.1", port), 10)
            break
        except ConnectionRefusedError:
            time.sleep(0.1)
    with client:
        client.sendall(b"GET /path HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(65536), b"")).partition(b"\r\n\r\n")[2].decode()
    return answer.replace(str(port), "PORT")


def under_cheroot(**options):
    server = cheroot.wsgi.Server(("127.0.0.1", 0), application, numthreads=1, **options)
    server.prepare()
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        return ask(server.bind_addr[1])
    finally:
        server.stop()
        thread.join(10)


def under_hypercorn():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = open(os.path.join(folder, "log"), "w")
    server = subprocess.Popen([os.path.join(sys.prefix, "bin", "hypercorn"), "--bind", "127.0.0.1:%d" % port,
                               "wsgi:app:application"], cwd=folder, stdout=log, stderr=log)
    try:
        return ask(port)
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()


print("CPython", platform.python_version(), *("%s %s" % (name, importlib.metadata.version(name))
                                              for name in ("cheroot", "hypercorn")))
with wsgiref.simple_server.make_server("127.0.0.1", 0, application, handler_class=Quiet) as server:
    server.base_environ["SERVER_NAME"] = "127.0.0.1"  # it would be this machine's full name
    threading.Thread(target=server.handle_request, daemon=True).start()
    seen = {"wsgiref": ask(server.server_port)}
seen["cheroot"] = under_cheroot()
seen["cheroot with server_name"] = under_cheroot(server_name="your.host")
seen["Hypercorn"] = under_hypercorn()
print("SERVER_NAME, SERVER_PORT and request_uri():")
for name, answer in seen.items():
    print("    %s: %s" % (name, answer))
product = "Cheroot/" + importlib.metadata.version("cheroot")
if seen != {"wsgiref": "'127.0.0.1' 'PORT' http://127.0.0.1:PORT/path",
            "cheroot": "'%s' 'PORT' http://%s:PORT/path" % (product, product),
            "cheroot with server_name": "'your.host' 'PORT' http://your.host:PORT/path",
            "Hypercorn": "'127.0.0.1' PORT TypeError"}:
    sys.exit("changed: %s" % seen)
print("as stated: a URL of another host under cheroot, TypeError under Hypercorn")
EOF
"$folder/venv/bin/python" "$folder/check.py" &
child=$!
wait "$child" && status=0 || status=$?
child=
exit "$status"
