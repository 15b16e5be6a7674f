"""The demo's table and picture."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import matplotlib
import numpy as np
from rich.box import HORIZONTALS
from rich.table import Table

from contest import LIBRARIES, Result

matplotlib.use("Agg")
from matplotlib import pyplot as plt

STYLE = {
    "sklearn": {"color": "#b8b8b8", "linewidth": 4},
    "hotloop": {"color": "#d1410c", "linewidth": 1.5},
}
#: Sets beside each other in the picture.
COLUMNS = 4


def table(results: list[Result]) -> Table:
    """Lay out scores, seconds and their ratio, one line for each set and way."""
    table = Table(title="same data, same seeds, same folds", box=HORIZONTALS, padding=(0, 1, 0, 0))
    table.add_column("set", no_wrap=True, max_width=16)
    table.add_column("way", no_wrap=True)
    for measured in ("score", "seconds"):
        for name in LIBRARIES:
            table.add_column(f"{measured}\n{name}", justify="right", no_wrap=True)
    table.add_column("times\nfaster", justify="right", no_wrap=True)
    for _, group in groupby(results, key=lambda result: result.dataset):
        table.add_section()
        ways = list(group)
        notes = [ways[0].dataset, ways[0].shape, ways[0].measure]
        for note, result in zip(notes, ways, strict=False):
            if result.error is None:
                numbers = [f"{result.score[name]:.3f}" for name in LIBRARIES]
                numbers += [f"{result.seconds[name]:.2f}" for name in LIBRARIES]
                table.add_row(note, result.way, *numbers, f"[bold]{result.times_faster:.1f}x")
            else:
                table.add_row(note, result.way, "[red]failed")
    return table


def write_picture(results: list[Result], path: Path) -> None:
    """Draw for each set both loss curves, and below them the bars of time."""
    sets = [(name, list(ways)) for name, ways in groupby(results, key=lambda one: one.dataset)]
    columns = min(COLUMNS, len(sets))
    rows = -(-len(sets) // columns)
    figure, axes = plt.subplots(
        2 * rows, columns, figsize=(3.6 * columns, 5.4 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.set_visible(False)
    for index, (name, ways) in enumerate(sets):
        row, column = divmod(index, columns)
        _draw_losses(axes[2 * row, column], name, ways)
        _draw_seconds(axes[2 * row + 1, column], ways)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw_losses(axis: plt.Axes, name: str, ways: list[Result]) -> None:
    axis.set_visible(True)
    for library, style in STYLE.items():
        for result in ways:
            if library in result.loss_curve:
                curve = result.loss_curve[library]
                axis.plot(np.arange(1, len(curve) + 1), curve, label=library, **style)
    axis.set(title=name, xlabel="epoch", ylabel="training loss")
    if axis.lines:
        axis.legend(frameon=False)


def _draw_seconds(axis: plt.Axes, ways: list[Result]) -> None:
    axis.set_visible(True)
    finished = [result for result in ways if result.error is None]
    for offset, (library, style) in zip((-0.2, 0.2), reversed(STYLE.items()), strict=True):
        seconds = [result.seconds[library] for result in finished]
        bars = axis.barh(
            np.arange(len(finished)) + offset, seconds, 0.38, color=style["color"], label=library
        )
        axis.bar_label(bars, [f" {value:.2g} s" for value in seconds], fontsize=8)
    axis.set_yticks(np.arange(len(finished)), [result.way for result in finished])
    axis.invert_yaxis()
    axis.margins(x=0.2)
    axis.set_xlabel("seconds")
