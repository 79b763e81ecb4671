"""The further keyword arguments of ``fastwsgi.serve()``, for type checkers. Nothing imports this at run time.

A test compares it with ``Options``, from which everything else is generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TypedDict


class Keywords(TypedDict, total=False):
    """Every option except those that ``serve()`` names itself, and ``reload``, which only the command line has."""

    max_request_line: int | None
    max_field_section: int | None
    max_fields: int | None
    max_body: int | None
    max_body_in_memory: int | None
    max_chunk_line: int | None
    max_connections: int | None
    max_output: int | None
    head_timeout: float | None
    keep_alive_timeout: float | None
    progress_timeout: float | None
    linger_timeout: float | None
    graceful_timeout: float | None
    fast_lane: bool | None
    poller: str | None
    backlog: int | None
    reuse_port: bool | None
    workers: int | None
    certfile: str | PathLike[str] | None
    keyfile: str | PathLike[str] | None
    ca_certs: str | PathLike[str] | None
    forwarded_allow_ips: str | Sequence[str] | None
    forwarded_fields: str | Sequence[str] | None
    proxy_protocol: bool | None
    access_log: str | PathLike[str] | None
    access_log_format: str | None
    log_level: str | None
    validate: bool | None
