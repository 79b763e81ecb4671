"""The build's one decision: the compiled twin, or the pure one with a notice.

``FASTWSGI_PURE=1`` skips the extension; ``FASTWSGI_REQUIRE_SPEEDUPS=1`` makes
a failed compile fatal. Everything else about the package is in pyproject.toml.
"""

import os
import platform
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


def asked(variable: str) -> bool:
    return os.environ.get(variable, "") not in ("", "0")


class OptionalBuildExt(build_ext):
    """Builds the extension, or says in one line why the pure twin is used."""

    def run(self) -> None:
        self.try_build(super().run)

    def build_extension(self, ext: Extension) -> None:
        self.try_build(lambda: super(OptionalBuildExt, self).build_extension(ext))

    def try_build(self, build) -> None:  # type: ignore[no-untyped-def]
        try:
            build()
        except Exception as error:
            if asked("FASTWSGI_REQUIRE_SPEEDUPS"):
                raise
            reason = " ".join(str(error).split())
            print(f"fastwsgi: no compiled speedups, using pure Python ({reason})", file=sys.stderr)
            self.extensions = []


def extensions() -> list[Extension]:
    if asked("FASTWSGI_PURE") or platform.python_implementation() != "CPython":
        return []
    parts = sorted(map(str, Path("fastwsgi").glob("_speedups_*.pxi")))
    flags = [] if os.name == "nt" else ["-O3", "-g0", "-fvisibility=hidden"]
    return [Extension("fastwsgi._speedups", ["fastwsgi/_speedups.pyx"], depends=parts, extra_compile_args=flags)]


setup(ext_modules=extensions(), cmdclass={"build_ext": OptionalBuildExt})
