"""What a fitted network is made of, as a table."""

from __future__ import annotations

from typing import Any

from .. import validate

#: Columns after that of the layers, which is as wide as it has to be.
COLUMNS = "{:>14}{:>12}{:>22}"


def of(estimator: Any, activations: tuple[Any, ...]) -> str:
    """Layers, shapes, parameters and work per row; what training drops, and what it leaves alone.

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
    known, n_layers = vars(estimator), len(estimator.coefs_)
    names = [*(getattr(a, "name", a) for a in activations), estimator.out_activation_]
    rates = (*validate.dropout(estimator.dropout, n_layers - 1), 0.0)
    frozen = validate.frozen_layers(estimator.frozen_layers, n_layers)
    scales = known.get("norm_scales_") or []
    norm = "batch norm" if known.get("norm_means_") else "layer norm"
    rows: list[tuple] = [("   layer", "weights", "parameters", "multiply-adds a row")]
    parameters = work = 0
    for k, coef in enumerate(estimator.coefs_):
        n_scales = len(scales[k]) if k < len(scales) else 0
        parts = ["dense", *([norm] if n_scales else []), names[k]]
        parts += [f"dropout {rates[k]:g}"] if rates[k] else []
        parts += ["frozen"] if k in frozen else []
        n = coef.size + estimator.intercepts_[k].size + n_scales
        rows.append((f"{k:<3}{', '.join(parts)}", " x ".join(map(str, coef.shape)), n, coef.size))
        parameters, work = parameters + n, work + coef.size
    rows.append(("   in all", "", parameters, work))
    width = max(37, *(len(row[0]) + 1 for row in rows))
    return "\n".join((row[0].ljust(width) + COLUMNS.format(*row[1:])).rstrip() for row in rows)
