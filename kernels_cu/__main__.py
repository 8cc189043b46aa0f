"""``python -m kernels_cu``: see report.py."""

import sys

from kernels_cu.report import main

if __name__ == "__main__":
    sys.exit(main())
