"""Everything that a service can be told, as keyword arguments, environment variables and flags of a command line.

An option is a field of ``Options`` and nothing else: ``keep_alive_timeout`` is also ``--keep-alive-timeout`` and
``FASTWSGI_KEEP_ALIVE_TIMEOUT``, all three held to the same rule. The type of its default is the type of its value;
where that is None, the value is text or None.
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

    Values are checked, however an object is made: TypeError or ValueError names the option. Text will do for
    several texts, and then it's split at commas and spaces; a path object will do for a file's name.
    """

    bind: tuple[str, ...] = setting(
        (),
        "addresses",
        "Where to listen: HOST:PORT, unix:PATH, fd:NUMBER. If nothing is said: on the sockets that systemd hands"
        " over, else on 127.0.0.1:8000.",
        group="listening",
    )
    backlog: int = setting(
        1024,
        "number",
        "Connections that the system keeps until they are accepted; it may have a lower bound of its own.",
        group="listening",
        between=(1, 65535),
    )
    reuse_port: bool = setting(
        False,
        "",
        "Whether other processes may listen on the same port, for the system to share it out.",
        group="listening",
    )
    threads: int = setting(
        1,
        "number",
        "Threads that answer requests; over one, the application must allow for it.",
        group="processes",
        between=(1, 1024),
    )
    workers: int = setting(
        1,
        "number",
        "Processes that answer requests; more than one are started and watched by gunicorn.",
        group="processes",
        between=(1, 1024),
    )
    graceful_timeout: float = setting(30.0, **Settings.__dataclass_fields__["graceful_timeout"].metadata)
    certfile: str | None = setting(
        None, "file", "The certificate, with those that lead to its root, as PEM; with it, TLS is spoken.", group="TLS"
    )
    keyfile: str | None = setting(
        None, "file", "The certificate's private key as PEM, if it isn't in certfile.", group="TLS"
    )
    ca_certs: str | None = setting(
        None,
        "file",
        "Root certificates as PEM; with it, clients must show a certificate that one of them vouches for.",
        group="TLS",
    )
    forwarded_allow_ips: tuple[str, ...] = setting(
        (),
        "addresses",
        'Proxies that are believed what they say of a request\'s client: addresses, networks, "unix" for those on unix'
        ' sockets, "*" for all.',
        group="proxies",
    )
    forwarded_fields: tuple[str, ...] = setting(
        USUAL_FIELDS,
        "names",
        "Which fields these proxies set, whatever a client sends: Forwarded, or some of X-Forwarded-For, -Proto, -Host"
        " and -Port. The others are deleted.",
        group="proxies",
    )
    proxy_protocol: bool = setting(
        False, "", "Whether each connection begins with a PROXY protocol header that names its client.", group="proxies"
    )
    access_log: str | None = setting(
        None, "file", 'Where each request gets a line; "-" is standard output.', group="logging"
    )
    access_log_format: str = setting(
        "common",
        "format",
        'What that line says: "common", "combined", "json", or a format of your own.',
        group="logging",
    )
    log_level: str = setting(
        "info",
        "",
        "The least important messages that are still logged.",
        group="logging",
        choices=("debug", "info", "warning", "error", "critical"),
    )
    validate: bool = setting(False, "", "Whether each call is held to PEP 3333, on both sides.", group="development")
    reload: bool = setting(
        False, "", "Whether changed files start the service anew; it needs the package watchfiles.", group="development"
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
                raise ValueError(f"{name} {getattr(self, name)!r} is of no use without certfile")


#: The options by their names.
OPTIONS: Mapping[str, Field[Any]] = {option.name: option for option in dataclasses.fields(Options)}


def flag(name: str) -> str:
    """An option's name on the command line."""
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """An option's name among environment variables."""
    return "FASTWSGI_" + name.upper()


def from_keywords(**keywords: Any) -> Options:
    """The options that keyword arguments say; the others have their defaults.

    Raises TypeError for a name that no option has and for a value of the wrong type, ValueError for a wrong value.
    """
    for name in keywords:
        if name not in OPTIONS:
            similar = difflib.get_close_matches(name, OPTIONS, 1)
            hint = f"; did you mean {similar[0]!r}?" if similar else ""
            raise TypeError(f"serve() got an unexpected keyword argument {name!r}{hint}")
    return Options(**keywords)


def environment(environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The values of the options that environment variables set; an empty one sets nothing.

    Raises ValueError, which names the variable, for text that isn't one of its option's values.
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
    """Give a parser a flag for each option, in groups. What isn't on the command line, isn't in the namespace."""
    for title in GROUPS:
        group = parser.add_argument_group(title)
        for name, option in OPTIONS.items():
            if option.metadata["group"] == title:
                # Only afterwards, because some Pythons would write it into a BooleanOptionalAction's help.
                group.add_argument(flag(name), dest=name, **_arguments(option)).default = argparse.SUPPRESS


def _arguments(option: Field[Any]) -> dict[str, Any]:
    """What argparse is to know of an option's flag."""
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
    """The options by a parsed command line, else by environment variables, else by their defaults.

    Raises ValueError for a wrong variable, and for options that contradict each other.
    """
    return Options(**{**environment(environ), **_given(namespace)})


def origins(namespace: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The flag or the variable that says an option, for those that are said; made for ``describe()``."""
    return {name: variable(name) for name in environment(environ)} | {name: flag(name) for name in _given(namespace)}


def _given(namespace: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(namespace).items() if name in OPTIONS}


def describe(options: Options, origins: Mapping[str, str] | None = None) -> str:
    """All options, a line ``name = value`` each; the value is a Python literal.

    origins: what to say of where a value comes from, after "#", by the option's name; "default" for the others.
    """
    lines = [f"{name} = {getattr(options, name)!r}" for name in OPTIONS]
    if origins is not None:
        width = max(map(len, lines))
        lines = [f"{line:{width}}  # {origins.get(name, 'default')}" for line, name in zip(lines, OPTIONS, strict=True)]
    return "\n".join(lines)


def default_text(option: Field[Any]) -> str:
    """An option's default, as one would write it."""
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
    """The value that text says. Raises ValueError with what comes after the option's name in a sentence."""
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
                f"must be a whole number{', with k, m or g behind it or not' if is_size else ''}, not {text!r}"
            )
        return _checked(option, int(match[1]) * _MULTIPLES[match[2]])
    if isinstance(default, float):
        if not re.fullmatch(r"-?([0-9]+\.?[0-9]*|\.[0-9]+)", text):
            raise ValueError(f"must be a number of seconds, not {text!r}")
        return _checked(option, float(text))
    return _checked(option, text if text or default is not None else None)


def _checked(option: Field[Any], value: Any) -> Any:
    """A value as the option has it. Raises TypeError or ValueError, like ``_read()``."""
    default = option.default
    if isinstance(default, bool):
        return _of_type(value, bool, "True or False")
    if isinstance(default, int | float):
        if isinstance(default, int):
            _of_type(value, int, "a whole number")
        else:
            _of_type(value, (int, float), "a number")
        least, most = option.metadata["between"]
        if not least <= value <= most:  # which NaN isn't, either
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
    # A bool is an int, but who writes True doesn't mean one.
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
