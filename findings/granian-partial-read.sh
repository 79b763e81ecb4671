#!/bin/sh
# Granian loses request bytes when an application mixes read(n) or readline() with read()
#
# Software: granian 2.8.9 (WSGI interface). Seen with CPython 3.11.7, 3.12.1 and 3.13.0.
#
# Expected: by PEP 3333, section "Input and Error Streams", wsgi.input has the methods read(), readline(), readlines()
#   and iteration with the semantics of the Python Library Reference. So read() after read(3) returns the rest of the
#   body, readline(2) returns two bytes at most, and read(-1) means the same as read().
# Instead: bytes that Granian has buffered for read(n) and readline() are lost for read() and readlines(). These skip
#   the buffer, return the bytes after it, and raise nothing. So the body looks complete and is not.
#   readline() ignores its size, and read(-1) raises OverflowError. io.BytesIO, used for comparison, is correct in all
#   cases.
# What to do: under Granian, read a body with one method only: one read(), or read(n) until it returns b"".
#   Parsers that peek at the first bytes and then call read() get a damaged upload. A server's own tests
#   should compare every mix of these calls with io.BytesIO.
set -eu
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || {
    echo "changed: needs CPython 3.11 to 3.13, this is $("$python" -V 2>&1)"; exit 1; }
folder=$(mktemp -d)
child=
trap 'test -z "$child" || kill "$child" 2>/dev/null || :; wait; rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --no-deps granian==2.8.9 click==8.5.1 || {
    echo "changed: these versions can't be installed any more"; exit 1; }

cat > "$folder/app.py" <<'EOF'
import json


def run(stream, calls):
    """The result of each call, as text; a large one as its length."""
    results = []
    for name, *arguments in calls:
        try:
            result = getattr(stream, name)(*arguments)
        except Exception as error:
            result = type(error).__name__
        results.append(len(result) if len(result) > 1000 else repr(result))
    return results


def application(environ, start_response):
    calls = json.loads(environ["HTTP_X_CALLS"])
    answer = json.dumps(run(environ["wsgi.input"], calls)).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
    return [answer]
EOF
cat > "$folder/check.py" <<'EOF'
import http.client, importlib.metadata, io, json, os, platform, signal, socket, subprocess, sys, time

from app import run

folder = os.path.dirname(os.path.abspath(__file__))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
signal.signal(signal.SIGALRM, lambda *_: sys.exit("changed: took more than a minute"))
signal.alarm(60)
with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
print("granian", importlib.metadata.version("granian"), "on CPython", platform.python_version())
log = open(os.path.join(folder, "log"), "w")
server = subprocess.Popen([os.path.join(sys.prefix, "bin", "granian"), "--interface", "wsgi", "--host", "127.0.0.1",
                           "--port", str(port), "app:application"], cwd=folder, stdout=log, stderr=log)
cases = [
    (b"abcdefgh", [["read", 3], ["read"]], ["b'abc'", "b''"]),
    (b"ab\ncd\nef\n", [["readline"], ["readlines"]], ["b'ab\\n'", "[]"]),
    (b"abcd\nef", [["readline", 2], ["readline", 2]], ["b'abcd\\n'", "b'ef'"]),
    (b"abcd", [["read", -1]], ["'OverflowError'"]),
    (b"x" * 300_000, [["read", 10], ["read"]], None),  # how many are lost depends on the packets
    (b"abcdefgh", [["read", 3], ["read", 100], ["read", 100]], ["b'abc'", "b'defgh'", "b''"]),  # the safe way
]
changed = []
try:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            time.sleep(0.1)
    for body, calls, seen in cases:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("POST", "/", body, {"X-Calls": json.dumps(calls)})
        granian = json.loads(connection.getresponse().read())
        connection.close()
        right = run(io.BytesIO(body), calls)
        print("body", body if len(body) < 1000 else "of %d bytes" % len(body), end="  ")
        print(*("%s(%s)" % (name, *arguments) if arguments else name + "()" for name, *arguments in calls))
        print("    io.BytesIO:", *right, sep="  ")
        print("    granian:   ", *granian, sep="  ")
        if seen is None:
            same = granian[0] == right[0] and isinstance(granian[1], int) and granian[1] < right[1]
        else:
            same = granian == seen
        if not same:
            changed.append("%s gives %s" % (calls, granian))
finally:
    server.terminate()
    try:
        server.wait(10)
    except subprocess.TimeoutExpired:
        server.kill()
if changed:
    sys.exit("changed: " + "; ".join(changed))
print("as stated: read() and readlines() skip what read(n) and readline() had buffered")
EOF
"$folder/venv/bin/python" "$folder/check.py" &
child=$!
wait "$child" && status=0 || status=$?
child=
exit "$status"
