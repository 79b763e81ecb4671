"""Decide what is built: the compiled twin, or only the pure one, with a notice.

``FASTWSGI_PURE=1`` skips the extension. With ``FASTWSGI_REQUIRE_SPEEDUPS=1`` a failed compilation is an error.
``FASTWSGI_BUILD=debug`` and ``FASTWSGI_BUILD=sanitize`` are for tests, and need GCC or Clang. All other settings of the
package are in pyproject.toml.
"""

import os
import platform
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# The three builds: the flags of the C compiler, and Cython's directives for checks. Our code uses no negative indexes,
# so wraparound is off in all of them.
RELEASE = ["-O3", "-g0", "-fvisibility=hidden"]
DEBUG = ["-Og", "-g", "-UNDEBUG", "-fno-omit-frame-pointer"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
UNCHECKED = {"boundscheck": False, "initializedcheck": False, "wraparound": False}
CHECKED = {"boundscheck": True, "initializedcheck": True, "wraparound": False, "nonecheck": True}

# An installed extension has only its exported symbols. One built in place keeps all, for profilers and debuggers.
STRIP = {"linux": ["-Wl,--strip-all"], "darwin": ["-Wl,-x"]}


def asked(variable: str) -> bool:
    return os.environ.get(variable, "") not in ("", "0")


class OptionalBuildExt(build_ext):
    """Builds the extension, or prints in one line why the pure twin is used."""

    def run(self) -> None:
        self.try_build(super().run)

    def build_extension(self, ext: Extension) -> None:
        if not self.inplace:
            ext.extra_link_args += STRIP.get(sys.platform, [])
        self.try_build(lambda: super(OptionalBuildExt, self).build_extension(ext))

    def try_build(self, build) -> None:  # type: ignore[no-untyped-def]
        try:
            build()
        except Exception as error:
            reason = " ".join(str(error).split())
            if asked("FASTWSGI_REQUIRE_SPEEDUPS"):
                sys.exit(f"fastwsgi: FASTWSGI_REQUIRE_SPEEDUPS is set, and there are no compiled speedups ({reason})")
            print(f"fastwsgi: no compiled speedups, using pure Python ({reason})", file=sys.stderr)
            self.extensions = self.distribution.ext_modules = []
            # The wheel's name tells what it contains, and pip shows that name even if it hides the line above.
            if wheel := self.distribution.get_command_obj("bdist_wheel", create=False):
                wheel.root_is_pure = True


def extensions() -> list[Extension]:
    build = os.environ.get("FASTWSGI_BUILD") or "release"
    if build not in ("release", "debug", "sanitize"):
        raise SystemExit(f"FASTWSGI_BUILD is release, debug or sanitize, not {build!r}")
    if asked("FASTWSGI_PURE") or platform.python_implementation() != "CPython":
        return []
    parts = sorted(map(str, Path("fastwsgi").glob("_speedups_*.pxi")))
    extension = Extension("fastwsgi._speedups", ["fastwsgi/_speedups.pyx"], depends=parts)
    extension.cython_directives = CHECKED if build == "debug" else UNCHECKED  # type: ignore[attr-defined]
    if os.name != "nt":
        extension.extra_compile_args = RELEASE if build == "release" else DEBUG
    if build == "sanitize":
        extension.extra_compile_args = DEBUG + SANITIZERS
        extension.extra_link_args = SANITIZERS
    return [extension]


setup(ext_modules=extensions(), cmdclass={"build_ext": OptionalBuildExt})
