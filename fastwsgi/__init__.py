"""fastwsgi: wsgiref made fit for production.

The same six modules under the same names (``util``, ``headers``, ``handlers``, ``simple_server``,
``validate``, ``types``), their hot paths compiled. Change the import, or call :func:`install` and leave
the imports as they are.
"""

from ._backend import implementation
from ._install import install, uninstall
from ._version import __version__

__all__ = ["__version__", "implementation", "install", "uninstall"]
