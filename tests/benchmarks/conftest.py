"""The benchmarks are run from a checkout, not installed, so tests find them by the root's path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
