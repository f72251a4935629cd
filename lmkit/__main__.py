"""`python -m lmkit ...`: the console script's twin, which `torchrun -m lmkit` needs."""

from __future__ import annotations

import sys

from lmkit.cli import main

if __name__ == "__main__":
    sys.exit(main())
