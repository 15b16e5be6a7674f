"""Arrays of other libraries: those of a CUDA device are read where they lie, and predictions go
back to the library of X where scikit-learn is set to ``array_api_dispatch``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.utils import _safe_indexing

from . import backends, validate
from .compat import in_library_of


def taken(device: str, X: Any, *others: Any) -> tuple[Any, ...]:
    """What the user handed in as validation takes it.

    Parameters
    ----------
    device : {"cpu", "cuda", "auto"}
        The estimator's parameter.
    X : array-like
        One of a CUDA device is not copied.
    *others : array-like
        y and perhaps sample weights; of a CUDA device they are copied to the host.

    Returns
    -------
    tuple
        As many as there were; whatever lies on no device as it is.

    Raises
    ------
    ValueError
        If an array lies on a CUDA device and another is to compute, or cannot be read there.
    """
    names = ("X", "y", "sample_weight")
    for name, array in zip(names, (X, *others), strict=False):
        if validate.lies_on_device(array):
            validate.require_cuda(name, array, device)
    return (_X(X), *map(_on_host, others))


def rows_of(device: str, rows: np.ndarray, X: Any, *others: Any) -> list[Any]:
    """Some rows of what :func:`taken` makes of arrays; those of X are copied where it lies."""
    X, *rest = taken(device, X, *others)
    part = X[rows] if validate.lies_on_device(X) else _safe_indexing(X, rows)
    return [part, *(_safe_indexing(array, rows) for array in rest)]


def likewise(X: Any, result: Any) -> Any:
    """A prediction in the library of X, if scikit-learn is set to answer so.

    Parameters
    ----------
    X : array-like
        As the user gave it.
    result : {ndarray, sparse matrix}
        What was predicted.

    Returns
    -------
    array
        Under ``array_api_dispatch`` an array of X's library on X's device, or one of numba where
        X is of no library that scikit-learn knows; `result` itself without it, and where it holds
        no numbers or is sparse.
    """
    if type(X) is np.ndarray or not get_config()["array_api_dispatch"]:
        return result
    if not isinstance(result, np.ndarray) or result.dtype.kind not in "biuf":
        return result
    on_device = validate.lies_on_device(X)
    if not on_device and not _is_foreign(X):
        return result
    found = None if getattr(X, "__cuda_ndarray__", False) else in_library_of(X, result)
    if found is None:
        return backends.to_device(result) if on_device else result
    return found


def _X(X: Any) -> Any:
    if not validate.lies_on_device(X):
        return _on_host(X)
    X = backends.device_matrix(X)
    validate.require_readable(X)
    return X


def _on_host(array: Any) -> Any:
    if validate.lies_on_device(array):
        return backends.copy_to_host(array)
    return np.asarray(array) if _is_foreign(array) else array


def _is_foreign(array: Any) -> bool:
    """Whether it is an array on the host that scikit-learn would keep in its library."""
    if isinstance(array, np.ndarray) or not hasattr(array, "__dlpack__"):
        return False
    return get_config()["array_api_dispatch"]
