"""Pictures of numbers, as SVG that needs no script: intervals, curves, grids, by matplotlib."""
