"""The regret of each strategy after each trial as a picture: ``python -m benchmarks.search.curves [RESULTS]``.

Reads what ``search_regret`` wrote and draws ``docs/search_regret.svg``: a panel for each space, the median over seeds.
Needs matplotlib (``pip install 'autofit-train[bench]'``).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

from benchmarks.record import RESULTS

matplotlib.use("svg")
from matplotlib import pyplot

PICTURE = Path(__file__).parents[2] / "docs" / "search_regret.svg"
LEAST = 1e-3
"""Where the logarithmic axis ends: less is drawn as this."""


def main(words: list[str]) -> int:
    """Draw the picture."""
    path = Path(words[0]) if words else RESULTS / "search_regret.json"
    spaces = json.loads(path.read_text())["spaces"]
    columns = 3
    rows = -(-len(spaces) // columns)
    matplotlib.rcParams["svg.hashsalt"] = "autofit"
    figure, axes = pyplot.subplots(rows, columns, figsize=(5 * columns, 3.4 * rows), squeeze=False)
    for axis, (name, space) in zip(axes.flat, spaces.items(), strict=False):
        for strategy, summary in space["strategies"].items():
            medians = [pair[0] for pair in summary["regret_by_trial"]]
            points = [(n, max(value, LEAST)) for n, value in enumerate(medians, start=1) if value is not None]
            if points:
                width = 2.5 if strategy == "autofit" else 1.0
                axis.plot(*zip(*points, strict=True), label=strategy, linewidth=width)
        axis.set_yscale("log")
        axis.set_title(f"{name} ({space['kind']}, {space['configurations']})", fontsize=9)
        axis.set_xlabel("measured trials")
        axis.set_ylabel("slower than the best")
        axis.axhline(0.01, color="grey", linewidth=0.5)
    for axis in axes.flat[len(spaces) :]:
        axis.set_visible(False)
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="lower center", ncols=4, fontsize=8)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.savefig(PICTURE, metadata={"Date": None})
    print(f"Wrote {PICTURE}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
