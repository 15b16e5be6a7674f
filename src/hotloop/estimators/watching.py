"""What a fit is judged by between epochs: the rows for it, and scorers."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, signature
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics import check_scoring


class Rows(NamedTuple):
    """Rows as the user gave them, and as they were judged.

    Attributes
    ----------
    X, y, sample_weight : array-like or None
        As the user gave them.
    data : TrainingData or None
        The same in the form that kernels take.
    """

    X: Any = None
    y: Any = None
    sample_weight: Any = None
    data: Any = None


#: No rows.
NONE = Rows()


def scorer_of(estimator: Any, beside: Rows, *, incremental: bool) -> Any:
    """What the parameter `scoring` asks for, if a fit has rows to look at.

    Parameters
    ----------
    estimator : MultilayerPerceptron
        With its parameters.
    beside : Rows
        Validation rows of the user.
    incremental : bool
        Whether it is partial_fit that asks.

    Returns
    -------
    callable, "loss" or None
        A scorer of scikit-learn's kind; None for the score that is made of outputs alone.

    Raises
    ------
    ValueError
        If there is no such scorer, there are no rows that it could look at, or some of the
        validation rows are missing.
    """
    scoring = estimator.scoring
    if incremental and (estimator.early_stopping or scoring is not None):
        named = "early_stopping=True" if estimator.early_stopping else f"scoring={scoring!r}"
        remedy = "" if estimator.early_stopping else "; set scoring=None"
        raise ValueError(f"partial_fit does not support {named}{remedy}")
    if (beside.X is None) != (beside.y is None):
        given, missing = ("y_val", "X_val") if beside.X is None else ("X_val", "y_val")
        raise ValueError(f"{given} was given without {missing}. Pass both or neither.")
    if beside.X is None and beside.sample_weight is not None:
        raise ValueError("sample_weight_val was given without X_val and y_val, which it is for.")
    splits = estimator.early_stopping and estimator.solver != "lbfgs"
    if scoring is not None and beside.X is None and not splits:
        raise ValueError(
            f"scoring={scoring!r} has no rows to look at. Pass X_val and y_val to fit, or set "
            "early_stopping=True and another solver, which sets rows aside."
        )
    if scoring is None or scoring == estimator._own_scoring:
        return None
    return "loss" if scoring == "loss" else check_scoring(estimator, scoring=scoring)


def minus_loss(output: np.ndarray, loss: float, snapshot: Callable[[], Any]) -> float:
    """A score that is larger for a smaller loss."""
    return -loss


def score(
    scorer: Any,
    rows: Rows,
    fitted: Callable[[Any], Any],
    output: np.ndarray,
    loss: float,
    snapshot: Callable[[], Any],
) -> float:
    """What a scorer says of a snapshot of training, on rows as the user gave them.

    Parameters
    ----------
    scorer : callable
        Of (estimator, X, y), and of ``sample_weight`` if it takes any.
    rows : Rows
        The rows.
    fitted : callable
        Makes a fitted estimator from what `snapshot` returns.
    output, loss : ndarray and float
        Not needed.
    snapshot : callable
        Makes an outcome from the weights there are.

    Raises
    ------
    ValueError
        If it returns anything but a number.
    """
    given = rows.data.sample_weight
    weights = {"sample_weight": given} if given is not None and takes_weights(scorer) else {}
    value: Any = scorer(fitted(snapshot()), rows.X, rows.y, **weights)
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if not isinstance(value, Real):
        raise ValueError(f"scoring must return a number, got {value!r}.")
    return float(value)


def takes_weights(scorer: Any) -> bool:
    """Whether a scorer, or the metric in one of scikit-learn, takes weights."""
    try:
        known = signature(getattr(scorer, "_score_func", scorer)).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.name == "sample_weight" or p.kind is Parameter.VAR_KEYWORD for p in known)
