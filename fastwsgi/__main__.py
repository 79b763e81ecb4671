"""``python -m fastwsgi [APP]``: serve an application, or the demo."""

import sys

from ._service.cli import main

if __name__ == "__main__":
    sys.exit(main())
