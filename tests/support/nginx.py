"""Run nginx in front of a server, on sockets that the test opens for it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from clients import Address
from programs import program_path, run
from waiting import TIMEOUT

CONFIGURATION = """
daemon off;
{user}
pid {folder}/nginx.pid;
error_log stderr warn;
worker_processes 1;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{http}
}}
"""

#: A site that forwards requests to a server: at / with buffering, and at one location without.
SITE = """
    client_max_body_size 64m;
    upstream site {{
        server {upstream};
        keepalive 8;
    }}
    server {{
        listen 127.0.0.1:{port};
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto $scheme;
        location / {{
            proxy_pass http://site;
        }}
        location /at-once/ {{
            proxy_buffering off;
            proxy_request_buffering off;
            proxy_pass http://site/;
        }}
    }}
"""


@contextlib.contextmanager
def nginx(
    folder: Path, http: Callable[..., str], *, ports: int = 1, may_complain: bool = False
) -> Iterator[list[Address]]:
    """Run nginx in a folder until the block ends; yield its addresses.

    http: makes the content of the http block from the ports. The sockets are opened here and passed in the way in which
    one nginx process passes them to the next. So the ports are free, and the sockets listen immediately. may_complain:
    whether nginx may report failures of the server behind it.
    """
    program = program_path("nginx")
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=512)) for _ in range(ports)]
        for each in listeners:
            each.setblocking(False)  # as for nginx's own sockets
        addresses = [Address(*each.getsockname()) for each in listeners]
        # A test run by root has a folder that nginx could not enter as another user.
        user = "user root;" if os.geteuid() == 0 else ""
        block = http(*(address.port for address in addresses))
        configuration = folder / "nginx.conf"
        configuration.write_text(CONFIGURATION.format(folder=folder, user=user, http=block), encoding="utf-8")
        command = [program, "-p", str(folder), "-e", "stderr", "-c", str(configuration)]
        checked = run(*command, "-t", check=True)
        assert "[warn]" not in checked.stderr
        descriptors = [each.fileno() for each in listeners]
        errors = stack.enter_context((folder / "nginx.errors").open("w+", encoding="utf-8"))
        process = subprocess.Popen(
            command,
            env={**os.environ, "NGINX": "".join(f"{fd};" for fd in descriptors)},
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            stderr=errors,
        )
        for each in listeners:
            each.close()
        try:
            yield addresses
        finally:
            process.terminate()
            status = process.wait(TIMEOUT)
            errors.seek(0)
            said = errors.read()
    assert status == 0, said
    usual = ("inherited sockets", " to a temporary file")
    complaints = [line for line in said.splitlines() if not any(part in line for part in usual)]
    assert may_complain or complaints == []


def in_front_of(upstream: str) -> Callable[[int], str]:
    """Configuration for nginx(): SITE in front of a server, given in nginx's notation."""
    return lambda port: SITE.format(upstream=upstream, port=port)
