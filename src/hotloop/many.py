"""Fits of several estimators at once: on a GPU one launch trains many small models."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn import config_context, get_config

from . import backends, device_arrays


def fit_many(
    estimators: Sequence[Any],
    X: Any,
    y: Any,
    sample_weight: Any = None,
    *,
    folds: Sequence[Any] | None = None,
) -> list[Any]:
    """Fit estimators, each as if it were fitted by itself.

    Those of ``device="cuda"`` train at the same time: models of the same network, optimizer and
    batch size are launched together, each on a block of its own with its weights and moments in
    shared memory, if these are no more than about 15,000 weights; those of long steps have the
    whole GPU in turns. Every seed of a search, every
    fold, and every candidate that differs in rates, `alpha`, `tol` or stopping is then one of many
    in a launch. All others are fitted one after another.

    Parameters
    ----------
    estimators : sequence of estimators
        Each once; they are fitted in place.
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
        The input, which is uploaded once if it is a NumPy array of the dtype that is computed with;
        or an array of a CUDA device, of which folds are copied there.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        The target.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the samples.
    folds : sequence of array-like of int, default=None
        For each estimator the rows to fit it on; None for all rows.

    Returns
    -------
    list of estimators
        The same ones, fitted.

    Raises
    ------
    ValueError
        If an estimator is there twice, two that train at once share a RandomState, or there are not
        as many folds as estimators.
    Exception
        What the fit of an estimator raised, the first in order. Each such estimator is left as it
        was; the others are fitted.

    Examples
    --------
    >>> import numpy as np
    >>> from hotloop import MLPRegressor, fit_many
    >>> X = np.linspace(0, 1, 40)[:, None]
    >>> models = [MLPRegressor(max_iter=99, tol=1, random_state=k) for k in range(3)]
    >>> [model.n_iter_ for model in fit_many(models, X, X[:, 0])]
    [12, 12, 12]
    """
    estimators = list(estimators)
    _refuse(estimators, folds)
    fits = [
        _fit_of(estimator, X, y, sample_weight, None if folds is None else folds[k])
        for k, estimator in enumerate(estimators)
    ]
    together = [k for k, e in enumerate(estimators) if getattr(e, "device", "cpu") == "cuda"]
    errors: dict[int, BaseException] = {}
    if together:
        _fit_together({k: fits[k] for k in together}, errors)
    for k, fit in enumerate(fits):
        if k not in together:
            try:
                fit()
            except Exception as error:
                errors[k] = error
    if errors:
        raise errors[min(errors)]
    return estimators


def _refuse(estimators: list[Any], folds: Sequence[Any] | None) -> None:
    """Refuse what cannot be fitted side by side."""
    if len({id(estimator) for estimator in estimators}) < len(estimators):
        raise ValueError(
            "An estimator is there twice; pass clones of it (sklearn.base.clone), which are "
            "fitted each by itself."
        )
    streams = [
        id(e.random_state)
        for e in estimators
        if isinstance(getattr(e, "random_state", None), np.random.RandomState)
        and getattr(e, "device", "cpu") == "cuda"
    ]
    if len(set(streams)) < len(streams):
        raise ValueError(
            "Two estimators that train at the same time share a RandomState, so what each draws "
            "would be up to chance. Give each an int as its random_state."
        )
    if folds is not None and len(folds) != len(estimators):
        raise ValueError(
            f"folds must hold the rows of each estimator: got {len(folds)} for "
            f"{len(estimators)} estimators."
        )


def _fit_of(estimator: Any, X: Any, y: Any, sample_weight: Any, rows: Any) -> Callable[[], Any]:
    """The fit of an estimator to some rows."""

    def fit() -> Any:
        arrays = [X, y] if sample_weight is None else [X, y, sample_weight]
        if rows is not None:
            device = getattr(estimator, "device", "cpu")
            arrays = device_arrays.rows_of(device, np.asarray(rows), *arrays)
        return estimator.fit(*arrays)

    return fit


def _fit_together(fits: dict[int, Callable[[], Any]], errors: dict[int, BaseException]) -> None:
    """Run fits each in a thread; their runs meet on the device."""
    meeting, settings = backends.meeting(len(fits)), get_config()

    def work(k: int) -> None:
        with meeting.member(), config_context(**settings):
            try:
                fits[k]()
            except BaseException as error:
                errors[k] = error

    threads = [threading.Thread(target=work, args=(k,), daemon=True) for k in fits]
    try:
        for thread in threads:
            thread.start()
    except BaseException:
        meeting.interrupt()  # who has begun would wait for the others
        raise
    for thread in threads:
        while thread.is_alive():
            try:
                thread.join()
            except KeyboardInterrupt:  # each fit keeps what it has, as it does by itself
                meeting.interrupt()


__all__ = ["fit_many"]
