"""``python -m vtrial`` is the command ``vtrial``."""

import sys

from vtrial.cli import main

if __name__ == "__main__":
    sys.exit(main())
