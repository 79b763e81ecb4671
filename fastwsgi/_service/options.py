"""All options of a service, as keyword arguments, environment variables and command line flags.

An option is defined once, as a field of ``Options``: ``keep_alive_timeout`` is also ``--keep-alive-timeout`` and
``FASTWSGI_KEEP_ALIVE_TIMEOUT``, and all three follow the same rule. A value has the type of its option's default. If
the default is None, the value is text or None.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass
from typing import Any

from fastwsgi._http.settings import Settings, setting

from .proxies import USUAL_FIELDS

#: The headings of the command line's help, in order.
GROUPS = ("listening", "processes", "TLS", "proxies", "logging", "limits", "timeouts", "development")

_BOOLEANS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_MULTIPLES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


@dataclass(frozen=True, kw_only=True)
class Options(Settings):
    """The options of ``fastwsgi.serve()``; sizes in bytes, times in seconds.

    Values are always checked; the TypeError or ValueError names the option. An option that takes several texts also
    accepts one text, which is split at commas and spaces. An option that takes a file name also accepts a path object.
    """

    bind: tuple[str, ...] = setting(
        (),
        "addresses",
        "Where to listen: HOST:PORT, unix:PATH or fd:NUMBER. Without it: on the sockets that systemd passes, else on"
        " 127.0.0.1:8000.",
        group="listening",
    )
    backlog: int = setting(
        1024,
        "number",
        "Connections that may wait to be accepted. The operating system may set a lower limit.",
        group="listening",
        between=(1, 65535),
    )
    reuse_port: bool = setting(
        False,
        "",
        "Whether other processes may listen on the same port. The operating system then distributes the connections.",
        group="listening",
    )
    threads: int = setting(
        1,
        "number",
        "Threads that run the application; with more than one, the application must be thread-safe.",
        group="processes",
        between=(1, 1024),
    )
    workers: int = setting(
        1,
        "number",
        "Processes that serve requests; with more than one, gunicorn starts and supervises them.",
        group="processes",
        between=(1, 1024),
    )
    graceful_timeout: float = setting(30.0, **Settings.__dataclass_fields__["graceful_timeout"].metadata)
    certfile: str | None = setting(
        None, "file", "PEM file with the certificate and its intermediate certificates; enables TLS.", group="TLS"
    )
    keyfile: str | None = setting(
        None, "file", "PEM file with the certificate's private key, if it isn't in certfile.", group="TLS"
    )
    ca_certs: str | None = setting(
        None,
        "file",
        "PEM file with root certificates. If set, each client must present a certificate issued under one of them.",
        group="TLS",
    )
    forwarded_allow_ips: tuple[str, ...] = setting(
        (),
        "addresses",
        'Proxies whose forwarding headers are trusted: addresses, networks, "unix" for all that connect to a unix'
        ' socket, "*" for all.',
        group="proxies",
    )
    forwarded_fields: tuple[str, ...] = setting(
        USUAL_FIELDS,
        "names",
        "Header fields that these proxies always set or overwrite: Forwarded, or some of X-Forwarded-For, -Proto, -Host"
        " and -Port. The others are deleted.",
        group="proxies",
    )
    proxy_protocol: bool = setting(
        False, "", "Whether connections begin with a PROXY protocol header, which names the client.", group="proxies"
    )
    access_log: str | None = setting(
        None, "file", 'File for the access log, one line for each request; "-" is standard output.', group="logging"
    )
    access_log_format: str = setting(
        "common",
        "format",
        'Format of the access log: "common", "combined", "json", or a custom format.',
        group="logging",
    )
    log_level: str = setting(
        "info",
        "",
        "Lowest severity of messages to log.",
        group="logging",
        choices=("debug", "info", "warning", "error", "critical"),
    )
    validate: bool = setting(
        False, "", "Whether to check the application and the server against PEP 3333.", group="development"
    )
    reload: bool = setting(
        False, "", "Whether to restart when source files change; needs the package watchfiles.", group="development"
    )

    def __post_init__(self) -> None:
        for name, option in OPTIONS.items():
            try:
                value = _checked(option, getattr(self, name))
            except (TypeError, ValueError) as error:
                raise type(error)(f"{name} {error}") from None
            object.__setattr__(self, name, value)
        for name in ("keyfile", "ca_certs"):
            if self.certfile is None and getattr(self, name) is not None:
                raise ValueError(f"{name} {getattr(self, name)!r} needs certfile")


#: The options by their names.
OPTIONS: Mapping[str, Field[Any]] = {option.name: option for option in dataclasses.fields(Options)}


def flag(name: str) -> str:
    """An option's name on the command line."""
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """An option's name among environment variables."""
    return "FASTWSGI_" + name.upper()


def from_keywords(**keywords: Any) -> Options:
    """The options that keyword arguments set; the others have their defaults.

    Raises TypeError for an unknown option and for a value of the wrong type, ValueError for a wrong value.
    """
    for name in keywords:
        if name not in OPTIONS:
            similar = difflib.get_close_matches(name, OPTIONS, 1)
            hint = f"; did you mean {similar[0]!r}?" if similar else ""
            raise TypeError(f"serve() got an unexpected keyword argument {name!r}{hint}")
    return Options(**keywords)


def environment(environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The values of the options that environment variables set; an empty one sets nothing.

    Raises ValueError, which names the variable, for text that isn't a valid value of its option.
    """
    values = {}
    for name, option in OPTIONS.items():
        text = environ.get(variable(name), "").strip()
        if text:
            try:
                values[name] = _read(option, text)
            except ValueError as error:
                raise ValueError(f"{variable(name)} {error}") from None
    return values


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each option to a parser, in groups. Flags that aren't given are absent from the namespace."""
    for title in GROUPS:
        group = parser.add_argument_group(title)
        for name, option in OPTIONS.items():
            if option.metadata["group"] == title:
                # Set later, because some Pythons would show it in the help of a BooleanOptionalAction.
                group.add_argument(flag(name), dest=name, **_arguments(option)).default = argparse.SUPPRESS


def _arguments(option: Field[Any]) -> dict[str, Any]:
    """Arguments of ``add_argument()`` for an option's flag."""
    meaning, unit, choices = (option.metadata[key] for key in ("meaning", "unit", "choices"))
    default = option.default
    seconds = " seconds" if unit == "seconds" else ""
    arguments: dict[str, Any] = {"help": f"{meaning} (default: {default_text(option) or 'none'}{seconds})"}
    if isinstance(default, bool):
        arguments["action"] = argparse.BooleanOptionalAction
        return arguments
    arguments["type"] = _reader(option)
    arguments["metavar"] = f"{{{','.join(choices)}}}" if choices else unit.upper()
    if isinstance(default, tuple):
        arguments["action"] = "extend"
    return arguments


def _reader(option: Field[Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return _read(option, text.strip())
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def from_arguments(namespace: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> Options:
    """The options of a parsed command line; else of environment variables; else their defaults.

    Raises ValueError for a wrong variable and for options that contradict each other.
    """
    return Options(**{**environment(environ), **_given(namespace)})


def origins(namespace: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The flag or the variable that sets each option, for options that are set; ``describe()`` shows them."""
    return {name: variable(name) for name in environment(environ)} | {name: flag(name) for name in _given(namespace)}


def _given(namespace: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(namespace).items() if name in OPTIONS}


def describe(options: Options, origins: Mapping[str, str] | None = None) -> str:
    """All options, one line ``name = value`` each; the value is a Python literal.

    origins: for each option's name, where its value comes from, shown after "#"; "default" for the others.
    """
    lines = [f"{name} = {getattr(options, name)!r}" for name in OPTIONS]
    if origins is not None:
        width = max(map(len, lines))
        lines = [f"{line:{width}}  # {origins.get(name, 'default')}" for line, name in zip(lines, OPTIONS, strict=True)]
    return "\n".join(lines)


def default_text(option: Field[Any]) -> str:
    """An option's default, as a user would write it."""
    default: Any = option.default
    if isinstance(default, bool):
        return "yes" if default else "no"
    if option.metadata["unit"] == "bytes":
        suffix = next((each for each in "gmk" if default and default % _MULTIPLES[each] == 0), "")
        return f"{default // _MULTIPLES[suffix]}{suffix}"
    if isinstance(default, tuple):
        return ", ".join(default)
    return f"{default:g}" if isinstance(default, float) else str(default or "")


def _read(option: Field[Any], text: str) -> Any:
    """Convert text to an option's value. Raises ValueError with a message that continues the option's name."""
    default = option.default
    if isinstance(default, bool):
        if text.lower() not in _BOOLEANS:
            raise ValueError(f"must be one of {', '.join(_BOOLEANS)}, not {text!r}")
        return _BOOLEANS[text.lower()]
    if isinstance(default, int):
        is_size = option.metadata["unit"] == "bytes"
        match = re.fullmatch(r"(-?[0-9]{1,18})([kmg]?)" if is_size else r"(-?[0-9]{1,18})()", text.lower())
        if match is None:
            raise ValueError(
                f"must be a whole number{', optionally followed by k, m or g' if is_size else ''}, not {text!r}"
            )
        return _checked(option, int(match[1]) * _MULTIPLES[match[2]])
    if isinstance(default, float):
        if not re.fullmatch(r"-?([0-9]+\.?[0-9]*|\.[0-9]+)", text):
            raise ValueError(f"must be a number of seconds, not {text!r}")
        return _checked(option, float(text))
    return _checked(option, text if text or default is not None else None)


def _checked(option: Field[Any], value: Any) -> Any:
    """Check a value, and return it in the option's type. Raises TypeError or ValueError, like ``_read()``."""
    default = option.default
    if isinstance(default, bool):
        return _of_type(value, bool, "True or False")
    if isinstance(default, int | float):
        if isinstance(default, int):
            _of_type(value, int, "a whole number")
        else:
            _of_type(value, (int, float), "a number")
        least, most = option.metadata["between"]
        if not least <= value <= most:  # false for NaN, too
            raise ValueError(f"must be between {least:.16g} and {most:.16g}, not {value!r}")
        return type(default)(value)
    if isinstance(default, tuple):
        return _texts(value)
    if isinstance(value, os.PathLike) and option.metadata["unit"] == "file":
        value = os.fspath(value)
    if default is None:
        value = _of_type(value, (str, type(None)), "a string or None")
    else:
        value = _of_type(value, str, "a string")
    if value == "":
        raise ValueError("must not be empty")
    choices = option.metadata["choices"]
    if choices and (value := value.lower()) not in choices:
        raise ValueError(f"must be one of {', '.join(choices)}, not {value!r}")
    return value


def _of_type(value: Any, types: type | tuple[type, ...], name: str) -> Any:
    # bool is a subclass of int, but True isn't meant as a number.
    if not isinstance(value, types) or (isinstance(value, bool) and types is not bool):
        raise TypeError(f"must be {name}, not {value!r}")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(filter(None, re.split(r"[,\s]+", value)))
    if not isinstance(value, Sequence) or not all(isinstance(item, str) for item in value):
        raise TypeError(f"must be a string or a sequence of strings, not {value!r}")
    if not all(item.strip() for item in value):
        raise ValueError(f"must not hold an empty string: {value!r}")
    return tuple(value)
