"""``python -m kernels_cu``: see report.py and build.py."""

import sys

if __name__ == "__main__":
    if sys.argv[1:2] == ["build"]:
        from kernels_cu.build import main

        sys.exit(main(sys.argv[2:]))
    from kernels_cu.report import main as report

    sys.exit(report())
