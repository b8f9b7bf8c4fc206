"""Puts the checkout at the end of the path, so that `python benchmarks/benchmark_x.py` works without installing."""

import sys
from pathlib import Path

for _folder in (Path(__file__).parent.parent, Path(__file__).parent.parent / "kernels"):
    if str(_folder) not in sys.path:
        sys.path.append(str(_folder))
