"""The embedded benchmark: humpback flukes drawn by code, the same scenes on every machine."""

from whalebench.benchmarks.flukes.draw import draw_flukes
from whalebench.benchmarks.flukes.population import DRAWING_VERSION

__all__ = ["DRAWING_VERSION", "draw_flukes"]
