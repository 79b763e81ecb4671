"""CPython's own tests of wsgiref, unchanged, on our modules."""

from __future__ import annotations

import json
import os

import pytest

from programs import run_python

# Debian's PyPy has the tests, but not the C file that its test.support compiles for a name that these don't need.
WITHOUT_TESTCAPI = """
import sys, types
if sys.implementation.name == "pypy":
    sys.modules["_testcapi"] = types.SimpleNamespace(unicode_legacy_string=None)
"""

# Runs in a separate interpreter, because the suite needs the main thread and signals.
RUN_THE_SUITE = """
import json, sys, unittest
import fastwsgi
fastwsgi.install()
import test.test_wsgiref as suite
import fastwsgi.handlers, fastwsgi.headers, fastwsgi.simple_server, fastwsgi.util, fastwsgi.validate
ours = {
    "BaseHandler": fastwsgi.handlers.BaseHandler,
    "Headers": fastwsgi.headers.Headers,
    "WSGIRequestHandler": fastwsgi.simple_server.WSGIRequestHandler,
    "WSGIServer": fastwsgi.simple_server.WSGIServer,
    "make_server": fastwsgi.simple_server.make_server,
    "util": fastwsgi.util,
    "validator": fastwsgi.validate.validator,
}
tests = unittest.defaultTestLoader.loadTestsFromModule(suite)
result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(tests)
print(json.dumps({
    "implementation": fastwsgi.implementation,
    "file": suite.__file__,
    "not ours": [name for name, value in ours.items() if getattr(suite, name) is not value],
    "run": result.testsRun,
    "skipped": [f"{test.id()}: {reason}" for test, reason in result.skipped],
    "successful": result.wasSuccessful(),
}))
"""


def test_cpythons_own_suite_passes(leg: str) -> None:
    # Some distributions omit the test package, or parts of it that the suite needs.
    alone = run_python("-c", WITHOUT_TESTCAPI + "import test.test_wsgiref")
    if alone.returncode != 0:
        pytest.skip(f"this interpreter ships without its test package: {alone.stderr.splitlines()[-1]}")
    finished = run_python("-c", WITHOUT_TESTCAPI + RUN_THE_SUITE, timeout=120)
    said = finished.stdout + finished.stderr
    assert finished.returncode == 0, said
    report = json.loads(finished.stdout.splitlines()[-1])
    assert report["implementation"] == leg
    assert report["file"].replace("\\", "/").endswith("/test/test_wsgiref.py")
    assert report["not ours"] == []
    assert report["run"] > 30
    if os.name == "posix":  # on other systems the test that interrupts a write by a signal is skipped
        assert report["skipped"] == []
    assert report["successful"], said
