"""What a fitted network is made of, as a table."""

from __future__ import annotations

from typing import Any

#: Columns: what they hold, and how wide they are.
COLUMNS = "{:<3}{:<34}{:>14}{:>12}{:>22}"


def of(estimator: Any, activations: tuple[Any, ...]) -> str:
    """Layers, shapes, parameters and work per row.

    Parameters
    ----------
    estimator : MultilayerPerceptron
        A fitted one.
    activations : tuple of (str or spec.Function)
        Those of its hidden layers.

    Returns
    -------
    str
        A line for each layer, and one for the sums.
    """
    known = vars(estimator)
    names = [*(getattr(a, "name", a) for a in activations), estimator.out_activation_]
    scales = known.get("norm_scales_") or []
    norm = "batch norm" if known.get("norm_means_") else "layer norm"
    lines = [COLUMNS.format("", "layer", "weights", "parameters", "multiply-adds a row")]
    parameters = work = 0
    for k, coef in enumerate(estimator.coefs_):
        n_scales = len(scales[k]) if k < len(scales) else 0
        parts = ["dense", *([norm] if n_scales else []), names[k]]
        n = coef.size + estimator.intercepts_[k].size + n_scales
        shape = " x ".join(map(str, coef.shape))
        lines.append(COLUMNS.format(k, ", ".join(parts), shape, n, coef.size))
        parameters, work = parameters + n, work + coef.size
    lines.append(COLUMNS.format("", "in all", "", parameters, work))
    return "\n".join(line.rstrip() for line in lines)
