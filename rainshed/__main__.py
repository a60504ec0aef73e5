"""`python -m rainshed`, and the command `rainshed`."""

import sys

from rainshed.engine.cli import main

if __name__ == "__main__":
    sys.exit(main())
