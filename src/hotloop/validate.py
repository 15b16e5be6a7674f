"""Where user input is judged: X, y, weights and parameters in, C-contiguous arrays out.

Copies are made only when needed. Nothing here writes to the estimator: what a fit learns
about its input (:class:`TrainingData`) is adopted by the estimator when the fit succeeds.
"""

from __future__ import annotations

import inspect
import math
import os
import pickle
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from numbers import Integral, Real
from pathlib import Path
from types import FunctionType
from typing import Any, ClassVar

import numpy as np
import scipy.sparse
from sklearn import get_config
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import column_or_1d, validate_data

from .compat import check_sample_weight
from .spec import ACTIVATIONS, Function, Loss, Network

Array = np.ndarray

#: dtypes that `validate_data` may leave X in, for each value of `precision`; anything else
#: becomes the first. What is computed with may be the other: rows are converted as they go by.
PRECISIONS: dict[str, Any] = {
    "auto": (np.float64, np.float32),
    "float32": (np.float32, np.float64),
    "float64": (np.float64, np.float32),
    "bfloat16": (np.float32, np.float64),
    "bfloat16_emulated": (np.float32, np.float64),
}


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Rows to learn from, judged and in the form that kernels take.

    Attributes
    ----------
    X : {ndarray, CSR} of shape (n, I), float32 or float64
        C-contiguous, on the host or on a CUDA device, or CSR whose structure has been checked;
        finite in the dtype that is computed with.
    target : ndarray
        int32 class codes of shape (n,), or (n, T) of several targets, or C-contiguous numbers of
        shape (n, O).
    sample_weight : ndarray of shape (n,), float64, or None
        Not negative, and not all zero.
    feature_names : ndarray of shape (I,) or None
        Column names, if X had any.
    labels : Labels, Heads or None
        How class labels became the target; None in regression.
    smoothing : float
        What training takes from zeros and ones: s makes them s / 2 and 1 - s / 2.
    """

    X: Any
    target: Array
    sample_weight: Array | None = None
    feature_names: Array | None = None
    labels: Labels | Heads | None = None
    smoothing: float = 0.0

    @property
    def is_sparse(self) -> bool:
        """Whether X is CSR."""
        return scipy.sparse.issparse(self.X)

    @property
    def row_entries(self) -> int | None:
        """About how many entries a row of CSR has, a power of two: data alike share their plans."""
        mean = self.X.nnz / max(1, self.X.shape[0]) if self.is_sparse else None
        return None if mean is None else 1 << max(0, math.ceil(mean) - 1).bit_length()

    @property
    def n_outputs(self) -> int:
        """Outputs of a network that learns this."""
        return self.labels.n_outputs if self.labels else self.target.shape[1]

    def weights_of(self, index: Array) -> Array | None:
        """The weights of the rows of `index`, which must not be all zero."""
        if self.sample_weight is None:
            return None
        weight = self.sample_weight[index]
        if not weight.any():
            raise ValueError(
                "All samples of a part that early_stopping split off have zero weight. Set "
                "early_stopping=False, another random_state or another validation_fraction."
            )
        return weight

    def rows(self, index: Array) -> TrainingData:
        """The rows of `index`, copied."""
        weight = self.weights_of(index)
        return replace(self, X=self.X[index], target=self.target[index], sample_weight=weight)

    def streams(self, dtype: Any) -> dict[str, Any]:
        """The arrays as a runner takes them: floating-point targets and a sparse X of `dtype`. A
        dense X stays as it is, since each row is converted on its way into a batch.
        """
        X = converted(self.X, dtype) if self.is_sparse else self.X
        streams = {"X": X, "y": self.target}
        with np.errstate(over="ignore"):
            if self.target.dtype != np.int32:
                target = self.target
                if self.smoothing:
                    target = (1 - self.smoothing) * target + self.smoothing / 2
                streams["y"] = np.ascontiguousarray(target, dtype=dtype)
                if np.isinf(streams["y"]).any():
                    raise ValueError(
                        f"y holds values up to {np.abs(self.target).max():g}, beyond what "
                        f"{np.dtype(dtype)} can hold. Scale y, or use precision='float64'."
                    )
        if self.sample_weight is not None:
            _refuse_beyond(self.sample_weight, dtype)
            streams["sample_weight"] = self.sample_weight
        return streams


def training_data(
    estimator: Any,
    X: Any,
    y: Any,
    sample_weight: Any,
    *,
    reset: bool,
    precision: str,
    y_numeric: bool,
) -> TrainingData:
    """Check what fit or partial_fit was given, up to the meaning of y.

    Parameters
    ----------
    estimator : estimator
        For its name, tags and known features; not written to.
    X : {array-like, sparse matrix} of shape (n, I)
        The input; on a CUDA device if `require_readable` has passed it.
    y : array-like of shape (n,) or (n, O), or sparse indicator matrix
        The target.
    sample_weight : float, array-like of shape (n,) or None
        The weights.
    reset : bool
        Whether the features may differ from those seen before.
    precision : {"auto", "float32", "float64", "bfloat16", "bfloat16_emulated"}
        The estimator's parameter.
    y_numeric : bool
        Whether y must be numbers (regression).

    Returns
    -------
    TrainingData
        With y in `target` as scikit-learn's validation leaves it: labels not yet encoded,
        a column made flat.

    Raises
    ------
    ValueError
        For anything that cannot be learned from; the message says what came.
    """
    twin = _twin(estimator)
    y = _checked_if_sparse(y, "y")
    if not (_is_plain_target(y) and _is_plain(estimator, X, reset=reset) and len(X) == len(y)):
        X, y = _validated(
            twin,
            X,
            y=y,
            multi_output=True,
            y_numeric=y_numeric,
            dtype=PRECISIONS[precision],
            reset=reset,
        )
    elif reset:
        vars(twin).pop("feature_names_in_", None)
    if PRECISIONS[precision][0] is np.float32:
        _refuse_overflow(twin, X, np.float32)
    if y.ndim == 2 and y.shape[1] == 1:
        y = column_or_1d(y, warn=True)
    return TrainingData(
        X=_as_kernels_take_it(X),
        target=y,
        sample_weight=None if sample_weight is None else _weights(sample_weight, y),
        feature_names=vars(twin).get("feature_names_in_"),
    )


def validation_data(
    estimator: Any, data: TrainingData, given: tuple[Any, Any, Any], *, precision: str
) -> TrainingData:
    """Check rows that a fit is to be judged by, up to the meaning of y.

    Parameters
    ----------
    estimator : estimator
        For its name and tags; not written to.
    data : TrainingData
        The rows to learn from, which these have to be like.
    given : tuple
        X, y and weights (or None) as the user gave them.
    precision : {"auto", "float32", "float64", "bfloat16", "bfloat16_emulated"}
        The estimator's parameter.

    Returns
    -------
    TrainingData
        Sparse if `data` is; labels not yet encoded.

    Raises
    ------
    ValueError
        As :func:`training_data`, and for other features.
    """
    twin = _twin(estimator)
    twin.n_features_in_ = data.X.shape[1]
    vars(twin).pop("feature_names_in_", None)
    if data.feature_names is not None:
        twin.feature_names_in_ = data.feature_names
    numeric = data.labels is None
    found = training_data(twin, *given, reset=False, precision=precision, y_numeric=numeric)
    if data.is_sparse and lies_on_device(found.X):
        raise ValueError("X_val lies on a CUDA device, but X is sparse. Copy it to the host.")
    if data.is_sparse and not found.is_sparse:
        return replace(found, X=scipy.sparse.csr_matrix(found.X))
    if found.is_sparse and not data.is_sparse:
        return replace(found, X=found.X.toarray(order="C"))
    return found


@contextmanager
def blamed_on(names: str) -> Iterator[None]:
    """Errors within say what was given that cannot be used."""
    try:
        yield
    except (ValueError, TypeError) as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"{names} cannot be used: {error}") from error


def inference_input(estimator: Any, X: Any) -> Any:
    """Check what a fitted estimator is asked about.

    Parameters
    ----------
    estimator : estimator
        A fitted one.
    X : {array-like, sparse matrix} of shape (n, I)
        The input; on a CUDA device if `require_readable` has passed it.

    Returns
    -------
    {ndarray, CSR} of shape (n, I)
        Any numeric dtype; C-contiguous, or CSR whose structure has been checked.

    Raises
    ------
    ValueError
        For a wrong shape, values that are not finite or feature names that differ.
    """
    if _is_plain(estimator, X, reset=False):
        return X
    return _as_kernels_take_it(_validated(estimator, X, reset=False))


#: Devices whose memory only CUDA reads or that is CUDA's to manage, as DLPack numbers them.
_DLPACK_CUDA = (2, 13)


def lies_on_device(array: Any) -> bool:
    """Whether an array lies on a CUDA device, whatever library it is of."""
    if isinstance(array, np.ndarray):
        return False
    if hasattr(array, "__cuda_array_interface__") or getattr(array, "__cuda_ndarray__", False):
        return True  # (arrays of numba's simulator have the second only)
    try:
        return array.__dlpack_device__()[0] in _DLPACK_CUDA
    except Exception:  # there is no such method, or it has nothing to say of this array
        return False


def require_cuda(name: str, array: Any, device: str) -> None:
    """Refuse an array of a CUDA device where another is to compute, or may be."""
    if device == "cuda":
        return
    kind = f"{type(array).__module__}.{type(array).__qualname__}"
    raise ValueError(
        f"{name} lies on a CUDA device ({kind}), but device is {device!r}. Set device='cuda' to "
        f"compute there, or copy it to the host: {name}.get() of CuPy, {name}.cpu() of torch, "
        f"{name}.copy_to_host() of numba."
    )


def require_readable(X: Any) -> None:
    """Refuse an X of a CUDA device that kernels could not read where it lies.

    Parameters
    ----------
    X : hotloop.kernels.cuda_memory.DeviceMatrix
        Of any shape and dtype.
    """
    if X.ndim != 2 or X.dtype not in (np.float32, np.float64) or not X.carray:
        layout = "C-contiguous" if X.carray else "not C-contiguous"
        raise ValueError(
            "X on a CUDA device must be a C-contiguous array of two dimensions and float32 or "
            f"float64, since it is read where it lies; got shape {X.shape}, {X.dtype}, {layout}. "
            "Convert it by its library, or copy it to the host, where any X is converted."
        )


def _validated(estimator: Any, X: Any, **how: Any) -> Any:
    """What scikit-learn's validation makes of X, or of X and y; X is left on its device."""
    if not lies_on_device(X):
        X = _checked_if_sparse(X, "X")
        return validate_data(estimator, X, accept_sparse=["csr", "csc"], **how)
    # scikit-learn sees an array of the same shape and dtype that takes no memory.
    shown = np.broadcast_to(np.zeros((), X.dtype), X.shape)
    judged = validate_data(estimator, shown, ensure_all_finite=False, **how)
    _refuse_not_finite(X, X.dtype)
    return (X, judged[1]) if "y" in how else X


def _refuse_not_finite(X: Any, dtype: Any) -> None:
    """Refuse an X on a device that is not finite in `dtype`, in scikit-learn's words."""
    if get_config()["assume_finite"]:
        return
    bounds = np.array([X.min(), X.max()])
    if np.isnan(bounds).any():
        raise ValueError("Input X contains NaN.")
    if not np.isfinite(converted(bounds, dtype)).all():
        raise ValueError(f"Input X contains infinity or a value too large for {np.dtype(dtype)!r}.")


def _is_plain(estimator: Any, X: Any, *, reset: bool) -> bool:
    """Whether scikit-learn's validation would hand X back as it is, and without a word."""
    if not (
        type(X) is np.ndarray
        and X.ndim == 2
        and X.dtype in (np.float32, np.float64)
        and X.flags.c_contiguous
        and X.size
    ):
        return False
    known = vars(estimator)
    same = X.shape[1] == known.get("n_features_in_") and known.get("feature_names_in_") is None
    if not (reset or same):
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(X.sum()))  # else let scikit-learn find out whether and why not


def _is_plain_target(y: Any) -> bool:
    """Whether scikit-learn's validation would hand y back as it is."""
    if not (type(y) is np.ndarray and y.ndim in (1, 2) and y.size and y.dtype.kind in "biufU"):
        return False
    return y.dtype.kind != "f" or bool(np.isfinite(y).all())


def _refuse_overflow(estimator: Any, X: Any, dtype: Any) -> None:
    """Refuse an X with a finite value beyond what `dtype` can hold, in scikit-learn's words."""
    if lies_on_device(X):
        _refuse_not_finite(X, dtype)
        return
    data = X.data if scipy.sparse.issparse(X) else X
    if data.dtype.kind != "f" or data.dtype.itemsize <= np.dtype(dtype).itemsize or not data.size:
        return
    if not np.isfinite(converted(np.array([data.min(), data.max()]), dtype)).all():
        twin = _twin(estimator)
        validate_data(twin, X, accept_sparse=["csr", "csc"], dtype=dtype, reset=False)


def converted(X: Any, dtype: Any) -> Any:
    """X of that dtype, a value beyond its range made infinite; copied only if it is of another."""
    with np.errstate(over="ignore"):
        return X.astype(dtype, copy=False)


def narrowed(estimator: Any, X: Any, dtype: Any) -> Any:
    """X of that dtype, as scikit-learn would take it in: a value beyond its range is an error."""
    _refuse_overflow(estimator, X, dtype)
    return converted(X, dtype)


#: Random streams that no fit uses at the moment: a new one takes longer than a small fit's epoch.
_SPARE_STREAMS: list[np.random.RandomState] = []


@contextmanager
def random_stream(random_state: Any) -> Iterator[np.random.RandomState]:
    """The stream that `random_state` stands for, as scikit-learn's `check_random_state` has it.

    One that is made from a seed is lent: nobody may hold it after the `with`.
    """
    if type(random_state) is not int or not 0 <= random_state < 2**32:
        yield check_random_state(random_state)
        return
    try:
        rng = _SPARE_STREAMS.pop()
        rng.seed(random_state)
    except IndexError:
        rng = np.random.RandomState(random_state)
    yield rng
    _SPARE_STREAMS.append(rng)  # not after an error: a traceback may hold it


def _twin(estimator: Any) -> Any:
    """A shallow copy for `validate_data` to write the features it saw to."""
    twin = object.__new__(type(estimator))
    vars(twin).update(vars(estimator))
    return twin


def _as_kernels_take_it(X: Any) -> Any:
    """C-contiguous array, or CSR of such arrays, its indices of one dtype; copied only if not."""
    if lies_on_device(X):
        return X
    if not scipy.sparse.issparse(X):
        return np.ascontiguousarray(X)
    X = X.tocsr()
    wide = np.result_type(X.indices, X.indptr)
    parts = [X.data, *(part.astype(wide, copy=False) for part in (X.indices, X.indptr))]
    parts = [np.ascontiguousarray(part) for part in parts]
    if not all(new is old for new, old in zip(parts, (X.data, X.indices, X.indptr), strict=True)):
        X = type(X)(X.shape, dtype=X.dtype)
        X.data, X.indices, X.indptr = parts
    return X


def _checked_if_sparse(X: Any, name: str) -> Any:
    """Refuse a sparse matrix whose arrays do not fit each other, or point outside it.

    SciPy checks them only when it builds a matrix, in part, and its conversions and
    products follow them wherever they lead.
    """
    if not scipy.sparse.issparse(X) or X.ndim != 2:
        return X
    if X.shape[1] >= 2**31:
        raise ValueError(
            f"{name} has {X.shape[1]} columns, allowed are at most {2**31 - 1}. Leave out columns "
            "that hold nothing, or hash them to fewer."
        )
    malformed = f"{name} is a malformed {X.format.upper()} matrix of shape {X.shape}"
    whole = _WHOLE.get(X.format, _whole_compressed)(X)
    if whole and X.format in ("dok", "dia"):
        X = X.tocoo()
    elif whole and X.format == "lil":
        X = X.tocsr()
    if not whole or not _WHOLE.get(X.format, _whole_compressed)(X):
        raise ValueError(
            f"{malformed}: its arrays have lengths that do not fit its shape and each other, no "
            "integers for indices, or an indptr that does not rise from 0. Build the matrix anew."
        )
    for index, size in _indices(X):
        if index.size and (index.min() < 0 or index.max() >= size):
            wrong = index.min() if index.min() < 0 else index.max()
            raise ValueError(f"{malformed}: an index is {wrong}, allowed are 0 to {size - 1}.")
    return X


def _whole_coordinates(X: Any) -> bool:
    """Whether the arrays of a COO matrix fit each other."""
    same = all(i.shape == X.data.shape and i.dtype.kind in "iu" for i in (X.row, X.col))
    return same and X.data.ndim == 1


def _whole_lists(X: Any) -> bool:
    """Whether a LIL matrix has two lists of one length for each row."""
    lists = X.rows, X.data
    return all(part.shape == X.shape[:1] and part.dtype == object for part in lists) and all(
        type(columns) is type(values) is list and len(columns) == len(values)
        for columns, values in zip(*lists, strict=True)
    )


def _whole_diagonals(X: Any) -> bool:
    """Whether a DIA matrix has an offset for each diagonal."""
    return X.data.ndim == 2 and X.offsets.shape == X.data.shape[:1] and X.offsets.dtype.kind in "iu"


def _whole_compressed(X: Any) -> bool:
    """Whether the arrays of a CSR, CSC or BSR matrix fit its shape and each other."""
    indptr, indices = X.indptr, X.indices
    n_lines, block = X.shape[1 if X.format == "csc" else 0], ()
    if X.format == "bsr":
        block = X.data.shape[1:]
        if len(block) != 2 or any(b == 0 or n % b for n, b in zip(X.shape, block, strict=True)):
            return False
        n_lines //= block[0]
    return (
        indptr.shape == (n_lines + 1,)
        and indices.ndim == 1
        and X.data.shape == indices.shape + block
        and indptr.dtype.kind in "iu"
        and indices.dtype.kind in "iu"
        and indptr[0] == 0
        and bool((indptr[1:] >= indptr[:-1]).all())
        and bool(indptr[-1] <= indices.size)
    )


#: How each format is judged, unless it is compressed; a DOK is a dict, whatever is in it.
_WHOLE: dict[str, Callable[[Any], bool]] = {
    "coo": _whole_coordinates,
    "dia": _whole_diagonals,
    "dok": lambda X: True,
    "lil": _whole_lists,
}


def _indices(X: Any) -> list[tuple[Array, int]]:
    """Index arrays of a COO, CSR, CSC or BSR matrix, and how many places each may point to."""
    n_rows, n_columns = X.shape
    if X.format == "coo":
        return [(X.row, n_rows), (X.col, n_columns)]
    if X.format == "bsr":
        n_columns //= X.blocksize[1]
    return [(X.indices, n_rows if X.format == "csc" else n_columns)]


def _weights(sample_weight: Any, y: Any) -> Array:
    weights = check_sample_weight(sample_weight, y)
    if (weights < 0).any():
        raise ValueError(
            f"sample_weight must not be negative, got {weights.min():g}. Give samples that are "
            "to be ignored the weight 0."
        )
    return np.ascontiguousarray(weights, dtype=np.float64)


def _refuse_beyond(weights: Array, dtype: Any) -> None:
    """Refuse weights that `dtype` cannot hold, or whose sum float64 cannot."""
    limits, used = np.finfo(dtype), weights[weights > 0]
    with np.errstate(over="ignore"):
        total = used.sum()
    if used.min() < limits.tiny or used.max() > limits.max or np.isinf(total):
        raise ValueError(
            f"sample_weight holds values from {used.min():g} to {used.max():g} that sum up to "
            f"{total:g}; computing in {np.dtype(dtype)} allows 0 and values from "
            f"{limits.tiny:g} to {limits.max:g} of a finite sum. Scale sample_weight, give samples "
            "that are to be ignored the weight 0, or use precision='float64'."
        )


def function(kind: str, given: Any) -> Function:
    """The record of a function that the user gave for a parameter.

    Parameters
    ----------
    kind : {"activation", "loss"}
        Name of the parameter; an activation has one argument, a loss two.
    given : callable or (callable, callable)
        A function, or it and its derivative.

    Raises
    ------
    ValueError
        If it is neither, or has another number of arguments.
    """
    if isinstance(given, type):
        raise ValueError(
            f"{kind} must be a name, an object or a function, got the class {given.__name__}. Make "
            f"an object of it: {kind}={given.__name__}(...)."
        )
    pair = given if isinstance(given, tuple) else (given, None)
    if len(pair) != 2 or not callable(pair[0]) or not (pair[1] is None or callable(pair[1])):
        raise ValueError(
            f"{kind} must be a name, a function or a pair of functions (value, derivative), got "
            f"{given!r}."
        )
    for part in pair:
        if not isinstance(part, Hashable):
            raise ValueError(f"{kind} must be a function; {part!r} has no hash to know it by.")
    wanted = {"activation": ("z",), "loss": ("y", "z")}[kind]
    for part in pair:
        try:
            inspect.signature(part or (lambda *arguments: None)).bind(*wanted)
        except TypeError as error:
            raise ValueError(
                f"{kind} must be a function of ({', '.join(wanted)}), single numbers, and so must "
                f"its derivative; {part!r} is not: {error}."
            ) from error
        except ValueError:  # of a builtin nothing is known
            continue
    return Function(kind, *pair)


def activations(given: Any, n_hidden: int) -> tuple[str | Function, ...]:
    """The activation of each hidden layer.

    Parameters
    ----------
    given : str, callable, (callable, callable) or list of such
        One for all layers, or a list with one a layer.
    n_hidden : int
        Number of hidden layers.

    Raises
    ------
    ValueError
        If a list has another length, or something in it is no activation.
    """
    if not isinstance(given, list):
        one = given if isinstance(given, str) else function("activation", given)
        return (one,) * n_hidden
    if len(given) != n_hidden:
        raise ValueError(
            f"activation lists {len(given)} for {n_hidden} hidden layers. List one for each, or "
            "give one alone for all of them."
        )
    for name in given:
        if isinstance(name, str) and name not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {ACTIVATIONS}, but lists {name!r}.")
    return tuple(a if isinstance(a, str) else function("activation", a) for a in given)


def require_importable(parameter: str, given: Any) -> None:
    """Refuse to pickle a function that another process could not find by its import path.

    Raises
    ------
    pickle.PicklingError
        For a lambda, or a function that was defined in another.
    """
    if isinstance(given, list):
        for each in given:
            require_importable(parameter, each)
        return
    for part in given if isinstance(given, tuple) else (given,):
        code = getattr(part, "py_func", part)  # of what numba compiled
        if not isinstance(code, FunctionType):
            continue
        found: Any = sys.modules.get(code.__module__)
        for name in code.__qualname__.split("."):
            found = getattr(found, name, None)
        if found is not part and found is not code:
            raise pickle.PicklingError(
                f"{parameter}={code.__qualname__} cannot be pickled: functions are pickled by "
                f"import path, and module {code.__module__!r} has none of that name here. Define "
                "it by `def` at the top level of a module that every process can import."
            )


def class_weighted(data: TrainingData, class_weight: Any) -> TrainingData:
    """Weights of samples times those of their classes.

    Parameters
    ----------
    data : TrainingData
        Of a classifier, its target encoded.
    class_weight : dict, list of dict or "balanced"
        Weights by label, 1 where a label has none; for an indicator matrix or several targets a
        list of such, one a column, whose weights are multiplied. "balanced": the sum of all
        weights, divided by the number of classes that have some and by the sum of those of the
        class.

    Raises
    ------
    ValueError
        For a dict that knows none of the classes, one where a list is needed, or negative weights.
    """
    assert data.labels is not None
    weight = np.ones(len(data.target)) if data.sample_weight is None else data.sample_weight
    columns = data.target.reshape(len(data.target), -1).astype(np.intp).T
    classes: Any = [data.labels.classes]
    given = [class_weight]
    if isinstance(data.labels, Heads) or data.labels.kind == "multilabel-indicator":
        indicator = not isinstance(data.labels, Heads)
        classes = [np.arange(2)] * len(columns) if indicator else data.labels.classes
        given = class_weight if isinstance(class_weight, list) else [class_weight] * len(columns)
        if isinstance(class_weight, dict) or len(given) != len(columns):
            raise ValueError(
                f"class_weight={class_weight!r}, but y has {len(columns)} labels: give a list of "
                f"as many dicts, each with weights of {'0 and 1' if indicator else 'its classes'}, "
                "or 'balanced'."
            )
    elif isinstance(class_weight, list):
        raise ValueError(
            f"class_weight={class_weight!r} is for an indicator matrix or several targets; y has "
            "one label a sample. Give a dict, or 'balanced'."
        )
    factor = np.ones(len(weight))
    for one, codes, known in zip(given, columns, classes, strict=True):
        factor *= _by_class(one, known, np.bincount(codes, weight, len(known)))[codes]
    if not (factor >= 0).all() or np.isinf(factor).any():
        raise ValueError(
            f"class_weight must hold finite numbers that are not negative, got {class_weight!r}."
        )
    if not (weight * factor).any():
        raise ValueError(f"class_weight={class_weight!r} leaves no sample any weight.")
    return replace(data, sample_weight=weight * factor)


def _by_class(class_weight: Any, classes: Array, totals: Array) -> Array:
    """Weights of classes that have so much weight in all."""
    if isinstance(class_weight, Mapping):
        known = classes.tolist()
        strange = [label for label in class_weight if label not in known]
        if strange and not all(label in class_weight for label in known):
            raise ValueError(
                f"class_weight={class_weight!r} is of labels that y has not, {strange}; its "
                f"classes are {known}. A class that is not there has weight 1."
            )
        with blamed_on(f"class_weight={class_weight!r}"):
            return np.array([float(class_weight.get(label, 1.0)) for label in known])
    there = totals > 0
    return np.divide(totals.sum() / there.sum(), totals, out=np.ones(len(totals)), where=there)


def regression_target(y: Any, loss: Loss) -> Array:
    """Targets of a regressor as numbers.

    Parameters
    ----------
    y : ndarray of shape (n,) or (n, O)
        As `training_data` leaves it.
    loss : Loss
        What is to be minimised.

    Returns
    -------
    ndarray of shape (n, O), float64
        O = 1 for a flat y; for several quantiles y once for each.

    Raises
    ------
    TypeError
        For a sparse y, or one of times or strings.
    ValueError
        For values that are no numbers, those that a loss is not defined for, and several targets
        for several quantiles.
    """
    if scipy.sparse.issparse(y):
        raise TypeError(
            "Sparse data was passed for y, but dense data is required. "
            "Use '.toarray()' to convert to a dense numpy array."
        )
    if y.dtype.kind in "mM":
        raise TypeError(f"y must hold numbers, not times ({y.dtype}); convert them first.")
    if y.dtype.kind in "US":
        raise TypeError(f"y must hold numbers, not strings ({y.dtype}); convert them first.")
    try:
        y = np.asarray(y, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"y must hold numbers, got {y.dtype}: {error}") from error
    if not np.isfinite(y).all():
        raise ValueError("Input y contains NaN or infinity once its values are read as numbers.")
    if (y < loss.least).any() or (loss.above and (y == loss.least).any()):
        raise ValueError(
            f"loss={loss.name!r} requires y {'>' if loss.above else '>='} {loss.least:g}, got a "
            f"smallest value of {y.min():g}. "
            "Use loss='squared_error' for targets that may be negative."
        )
    y = y.reshape(len(y), -1)
    if loss.name != "ordered_quantiles":
        return y
    if y.shape[1] > 1:
        raise ValueError(
            f"y has {y.shape[1]} targets and the loss {len(loss.parameters)} quantiles; several "
            "quantiles take one target. Fit a network for each target "
            "(sklearn.multioutput.MultiOutputRegressor), or give one quantile."
        )
    return np.repeat(y, len(loss.parameters), axis=1)


@dataclass(frozen=True, eq=False)
class Labels:
    """What class labels mean as targets, and outputs as labels.

    Attributes
    ----------
    classes : ndarray of shape (K,)
        The labels in ascending order; column numbers for an indicator matrix.
    kind : {"binary", "multiclass", "multilabel-indicator"}
        scikit-learn's name of the type of target. One class only counts as binary.
    sparse : bool
        Whether y was a sparse indicator matrix, so that predictions are sparse too.
    """

    classes: Array
    kind: str
    sparse: bool = False

    @staticmethod
    def learn(y: Any) -> tuple[Labels | Heads, Array]:
        """Find the classes of `y`, and encode it.

        Parameters
        ----------
        y : {ndarray, sparse matrix} of shape (n,), (n, K) or (n, T)
            Labels, an indicator matrix of at least two columns, or several targets.

        Returns
        -------
        labels : Labels
            What the labels mean.
        target : ndarray
            As :meth:`encode` returns it.

        Raises
        ------
        ValueError
            If `y` holds no class labels; scikit-learn's message.
        """
        if not y.shape[0]:
            raise ValueError(f"y has 0 samples: {y!r}")
        if y.ndim == 2:
            sparse = scipy.sparse.issparse(y)
            kind = type_of_target(y, input_name="y")
            if kind == Heads.kind and not sparse:
                return Heads.learn(y)
            _refuse_unless_multilabel(y, kind)
            return Labels(np.arange(y.shape[1]), "multilabel-indicator", sparse), _zeros_and_ones(y)
        classes, codes = _distinct(y)
        labels = Labels(classes, "binary" if len(classes) <= 2 else "multiclass")
        return labels, labels._target(codes)

    @property
    def n_outputs(self) -> int:
        """Outputs of a network that tells the classes apart."""
        return 1 if self.kind == "binary" else len(self.classes)

    def encode(self, y: Any) -> Array:
        """Turn labels into a target.

        Parameters
        ----------
        y : {ndarray, sparse matrix} of shape (n,) or (n, K)
            Labels that are all known.

        Returns
        -------
        ndarray
            int32 codes of shape (n,) if there are three classes or more; else zeros and
            ones in float64, of shape (n, 1) for two classes and (n, K) for an indicator
            matrix.

        Raises
        ------
        ValueError
            For labels that are not among the classes, or another type of target.
        """
        if (y.ndim == 2) != (self.kind == "multilabel-indicator"):
            raise ValueError(
                f"y is {y.ndim}-dimensional, but the classifier was fitted with {self.kind} "
                "targets. Fit a new one for another type of target."
            )
        if y.ndim == 2:
            _refuse_unless_multilabel(y, type_of_target(y, input_name="y"))
            if y.shape[1] != len(self.classes):
                raise ValueError(
                    f"y has {y.shape[1]} columns, but the classifier was fitted with "
                    f"{len(self.classes)}."
                )
            return _zeros_and_ones(y)
        present, codes = _distinct(y)
        known = self.classes
        if (present.dtype.kind == "U") != (known.dtype.kind == "U"):
            positions = np.zeros(len(present), dtype=np.intp)
            missing = np.ones(len(present), dtype=bool)
        else:
            positions = np.minimum(np.searchsorted(known, present), len(known) - 1)
            missing = known[positions] != present
        if missing.any():
            raise ValueError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {known}. "
                f"'y' has {present}."
            )
        return self._target(positions[codes])

    def require_same_classes(self, other: Labels | Heads) -> None:
        """Refuse a warm start with other classes."""
        same = isinstance(other, Labels) and {*other.classes.tolist()} == {*self.classes.tolist()}
        if not same:
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous "
                f"call to fit. Previously got {self.classes}, `y` has {other.classes}"
            )

    def choose(self, output: Array, threshold: float = 0.5) -> Array:
        """Turn network outputs into codes.

        Parameters
        ----------
        output : ndarray of shape (n, O)
            Probabilities, or other numbers that grow with them.
        threshold : float, default=0.5
            Above it one output by itself says yes.

        Returns
        -------
        ndarray of shape (n,) or (n, K), intp
            Indices into `classes`, or zeros and ones for an indicator matrix. Where
            nothing can be chosen (NaN) it is 0, as for scikit-learn.
        """
        if self.kind == "multiclass":
            return output.argmax(axis=1)
        chosen = (output > threshold).astype(np.intp)
        if self.kind == "binary":
            return chosen.ravel() if len(self.classes) == 2 else np.zeros_like(chosen.ravel())
        return chosen

    def decode(self, output: Array, threshold: float = 0.5) -> Any:
        """Turn network outputs into labels.

        Parameters
        ----------
        output : ndarray of shape (n, O)
            Probabilities, or other numbers that grow with them.
        threshold : float, default=0.5
            Above it one output by itself says yes.

        Returns
        -------
        {ndarray, CSR} of shape (n,) or (n, K)
            Labels of the dtype of `classes`, or an indicator matrix of integers.
        """
        if self.sparse:
            return self.binarizer().inverse_transform(output, threshold)
        chosen = self.choose(output, threshold)
        return chosen if self.kind == "multilabel-indicator" else self.classes[chosen]

    def binarizer(self) -> LabelBinarizer:
        """The fitted scikit-learn object that means the same."""
        binarizer = LabelBinarizer()
        binarizer.classes_ = self.classes
        binarizer.y_type_ = self.kind
        binarizer.sparse_input_ = self.sparse
        return binarizer

    def _target(self, codes: Array) -> Array:
        if self.kind == "multiclass":
            return codes.astype(np.int32)
        return codes.astype(np.float64).reshape(-1, 1)


@dataclass(frozen=True, eq=False)
class Heads:
    """The same as :class:`Labels` for several targets a row, each with classes of its own, which
    softmaxes over runs of outputs tell apart.

    Attributes
    ----------
    classes_of : tuple of ndarray of shape (K_t,)
        The labels of each target in ascending order.
    """

    classes_of: tuple[Array, ...]
    kind: ClassVar[str] = "multiclass-multioutput"
    sparse: ClassVar[bool] = False

    @staticmethod
    def learn(y: Array) -> tuple[Heads, Array]:
        """Find the classes of each column of `y`, (n, T), and encode it."""
        found = [_distinct(column) for column in y.T]
        codes = np.stack([codes for _, codes in found], axis=1)
        return Heads(tuple(classes for classes, _ in found)), codes.astype(np.int32)

    @property
    def classes(self) -> list[Array]:
        """As the estimator shows them."""
        return list(self.classes_of)

    @property
    def widths(self) -> tuple[int, ...]:
        """Outputs of each target."""
        return tuple(map(len, self.classes_of))

    @property
    def n_outputs(self) -> int:
        """Outputs of a network that tells the classes apart."""
        return sum(self.widths)

    def encode(self, y: Any) -> Array:
        """Turn labels, of shape (n, T), into int32 codes of that shape."""
        if scipy.sparse.issparse(y) or y.ndim != 2 or y.shape[1] != len(self.classes_of):
            raise ValueError(
                f"y has shape {y.shape}, but the classifier was fitted with {self.kind} targets "
                f"of {len(self.classes_of)} columns, not sparse. Fit a new one for another type "
                "of target."
            )
        codes = np.empty(y.shape, np.int32)
        for t, (classes, column) in enumerate(zip(self.classes_of, y.T, strict=True)):
            codes[:, t] = Labels(classes, "multiclass").encode(column)
        return codes

    def require_same_classes(self, other: Labels | Heads) -> None:
        """Refuse a warm start with other classes."""
        before, now = ([np.asarray(c).tolist() for c in each.classes] for each in (self, other))
        if before != now:
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous "
                f"call to fit. Previously got {before}, `y` has {now}"
            )

    def split(self, output: Array) -> list[Array]:
        """Outputs of shape (n, O) by targets, each of shape (n, K_t)."""
        parts = np.split(output, np.cumsum(self.widths)[:-1], axis=1)
        return [np.ascontiguousarray(part) for part in parts]

    def choose(self, output: Array, threshold: float = 0.5) -> Array:
        """Codes of shape (n, T), intp, of the largest output of each target."""
        return np.stack([part.argmax(axis=1) for part in self.split(output)], axis=1)

    def decode(self, output: Array, threshold: float = 0.5) -> Array:
        """Labels of shape (n, T), of a dtype that holds those of all targets."""
        codes = self.choose(output).T
        return np.stack([c[k] for c, k in zip(self.classes_of, codes, strict=True)], axis=1)

    def binarizer(self) -> LabelBinarizer:
        """scikit-learn has none."""
        raise AttributeError(f"There is no LabelBinarizer of {self.kind} targets.")


def _zeros_and_ones(y: Any) -> Array:
    """An indicator matrix in float64."""
    dense = y.toarray() if scipy.sparse.issparse(y) else y
    return np.not_equal(dense, 0).astype(np.float64, order="C")


def _refuse_unless_multilabel(y: Any, kind: str) -> None:
    if kind != "multilabel-indicator":
        LabelBinarizer().fit(y)  # says what is wrong
        raise ValueError(f"y of shape {y.shape} is no indicator matrix of zeros and ones.")


def _distinct(y: Array) -> tuple[Array, Array]:
    """Sorted distinct labels of a flat array, and each row's index into them."""
    integral = y.dtype.kind in "biu" or (
        y.dtype.kind == "f" and np.isfinite(y).all() and bool((y == np.trunc(y)).all())
    )
    if integral:
        return np.unique(y.astype(y.dtype.newbyteorder("="), copy=False), return_inverse=True)
    if y.dtype.kind in "UO" and isinstance(y[0], str):
        values, codes = np.unique(y, return_inverse=True)
        return np.asarray(values.tolist()), codes  # no wider than the longest label
    classes = LabelBinarizer().fit(y).classes_  # refuses what holds no labels
    return classes, np.searchsorted(classes, y)


def hidden_layer_sizes(value: Any) -> tuple[int, ...]:
    """Units of each hidden layer.

    Parameters
    ----------
    value : int or array-like of int
        The estimator's parameter.

    Returns
    -------
    tuple of int
        Empty for a network without hidden layers.

    Raises
    ------
    ValueError
        For anything but positive integers.
    """
    if not isinstance(value, Integral) and getattr(value, "ndim", 1) != 1:
        raise ValueError(
            f"hidden_layer_sizes must be an integer or have one dimension, got {value!r:.200}."
        )
    sizes = [value] if isinstance(value, Integral) else list(value)
    if not all(isinstance(size, Integral) and not isinstance(size, bool) for size in sizes):
        raise ValueError(f"hidden_layer_sizes must be integers, got {sizes!r:.200}.")
    if any(size <= 0 for size in sizes):
        raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes!r:.200}.")
    return tuple(int(size) for size in sizes)


def frozen_layers(value: Any, n_layers: int) -> frozenset[int]:
    """Numbers of the layers that are not to be trained.

    Parameters
    ----------
    value : array-like of int or None
        The estimator's parameter; -1 is the output layer.
    n_layers : int
        Layers that have weights.

    Returns
    -------
    frozenset of int
        From 0, the first layer after the input.

    Raises
    ------
    ValueError
        For anything but numbers of layers, or for all of them.
    """
    numbers: list[Any] = [] if value is None else list(value)
    kinds = {isinstance(k, Integral) and not isinstance(k, bool | np.bool_) for k in numbers}
    if False in kinds or not all(-n_layers <= int(k) < n_layers for k in numbers):
        raise ValueError(
            f"frozen_layers must be numbers from {-n_layers} to {n_layers - 1}, since there are "
            f"{n_layers} layers with weights; got {value}."
        )
    frozen = frozenset(int(k) % n_layers for k in numbers)
    if len(frozen) == n_layers:
        raise ValueError(
            f"frozen_layers={value} leaves nothing to train of {n_layers} layers. Leave one out."
        )
    return frozen


def dropout(value: Any, n_hidden: int) -> tuple[float, ...]:
    """Rate at which training drops the outputs of each hidden layer.

    Parameters
    ----------
    value : float or array-like of float
        The estimator's parameter: one rate for all, or one for each.
    n_hidden : int
        Hidden layers.

    Returns
    -------
    tuple of float
        Of length `n_hidden`.

    Raises
    ------
    ValueError
        For anything but numbers in [0, 1), or as many of them as there are hidden layers.
    """
    rates: list[Any] = [value] * n_hidden if isinstance(value, Real) else list(value)
    if not all(isinstance(rate, Real) and 0 <= float(rate) < 1 for rate in rates):
        raise ValueError(f"dropout must be rates in [0, 1), got {value!r}.")
    if len(rates) != n_hidden:
        raise ValueError(
            f"dropout must be one rate, or one for each of the {n_hidden} hidden layers, got "
            f"{value!r}."
        )
    return tuple(float(rate) for rate in rates)


def initial_parameters(
    init: Any, network: Network, dtype: Any, norms: Mapping[str, Sequence[Array]]
) -> list[Array]:
    """Weights, biases and what normalizations have, which the user wants to start from.

    Parameters
    ----------
    init : (list of array-like, list of array-like, ...)
        Those of each layer, as `coefs_` and `intercepts_` have them, and perhaps all of `norms`.
    network : Network
        What is to be trained.
    dtype : dtype
        What is computed with.
    norms : mapping of str to sequence of ndarray
        The attributes that normalizations of the network will have, in order.

    Returns
    -------
    list of ndarray
        All weights, then all biases and what there is of `norms`, C-contiguous and of that dtype.

    Raises
    ------
    ValueError
        If it is nothing of this kind, of other shapes, or not finite.
    """
    attributes = ["coefs_", "intercepts_", *norms]
    if len(init) not in (2, len(attributes)) or not all(isinstance(p, list | tuple) for p in init):
        more = f", or all of ({', '.join(attributes)})" if norms else ""
        raise ValueError(
            "init must be a name or a pair of lists, weights and biases of each layer as in "
            f"(coefs_, intercepts_){more}; got a {type(init).__name__} of "
            f"{[type(part).__name__ for part in init]}."
        )
    with blamed_on("init"):
        coefs, intercepts = parameters(*init[:2])
        have = [coefs[0].shape[0], *(len(b) for b in intercepts)]
        want = [network.in_shape[0], *(layer.units for layer in network.layers)]
        if have != want:
            raise ValueError(
                f"init holds layers of {have} units, but X, hidden_layer_sizes and y ask for "
                f"{want}."
            )
        vectors = norm_vectors(dict(zip(norms, init[2:], strict=False)), coefs)
    with np.errstate(over="ignore"):
        arrays = as_dtype([*coefs, *intercepts, *vectors], dtype)
    if not all(np.isfinite(array).all() for array in arrays):
        raise ValueError(f"init must hold numbers that are finite in {np.dtype(dtype)}.")
    return arrays


def parameters(coefs: Sequence[Any], intercepts: Sequence[Any]) -> tuple[list[Array], list[Array]]:
    """`coefs_` and `intercepts_` as they are now, made fit to compute with.

    They may have been edited or assigned: lists, views, read-only memory maps and other
    dtypes are taken.

    Parameters
    ----------
    coefs : sequence of array-like of shape (I, O)
        One a layer.
    intercepts : sequence of array-like of shape (O,)
        One a layer.

    Returns
    -------
    coefs, intercepts : list of ndarray, float32 or float64
        All C-contiguous and of one dtype, the widest that occurs; not copied if they
        already are.

    Raises
    ------
    ValueError
        If the shapes do not follow on from each other, or there are no numbers in them.
    """
    if len(coefs) != len(intercepts) or not len(coefs):
        raise ValueError(
            f"coefs_ has {len(coefs)} arrays and intercepts_ has {len(intercepts)}; "
            "both need one for each layer."
        )
    matrices, vectors = [np.asarray(c) for c in coefs], [np.asarray(b) for b in intercepts]
    n_rows = matrices[0].shape[0] if matrices[0].ndim == 2 else -1
    for i, (matrix, vector) in enumerate(zip(matrices, vectors, strict=True)):
        for name, array in (("coefs_", matrix), ("intercepts_", vector)):
            if array.dtype.kind not in "fiub":
                raise ValueError(f"{name}[{i}] must hold real numbers, not {array.dtype}.")
        if matrix.ndim != 2 or matrix.shape[0] != n_rows or vector.shape != matrix.shape[1:]:
            raise ValueError(
                f"coefs_[{i}] has shape {matrix.shape} and intercepts_[{i}] has shape "
                f"{vector.shape}; expected {(n_rows, 'O') if i else ('I', 'O')} and ('O',), where "
                "I is the number of features and O that of units in the layer."
            )
        n_rows = matrix.shape[1]
    dtypes = {array.dtype for array in (*matrices, *vectors)}
    dtype = np.dtype(np.float32 if dtypes <= {np.dtype("f2"), np.dtype("f4")} else np.float64)
    return as_dtype(matrices, dtype), as_dtype(vectors, dtype)


def norm_vectors(named: Mapping[str, Sequence[Any]], coefs: Sequence[Array]) -> list[Array]:
    """Vectors of normalizations as they are now, made fit to compute with.

    Parameters
    ----------
    named : mapping of str to sequence of array-like of shape (O,)
        By the attributes that they are, each with one of every hidden layer.
    coefs : sequence of ndarray of shape (I, O)
        Weights of all layers.

    Returns
    -------
    list of ndarray of shape (O,)
        Of the dtype of `coefs`, in the order given.

    Raises
    ------
    ValueError
        If they do not fit the layers, hold no real numbers, or a variance is negative.
    """
    widths, vectors = [coef.shape[1] for coef in coefs[:-1]], []
    for name, arrays in named.items():
        found = [np.asarray(array) for array in arrays]
        shapes = [array.shape for array in found]
        if shapes != [(width,) for width in widths] or {a.dtype.kind for a in found} - {*"fiub"}:
            raise ValueError(
                f"{name} must hold one vector of real numbers for each hidden layer, of "
                f"{widths} units; got shapes {shapes}."
            )
        if name == "norm_variances_" and any((array < 0).any() for array in found):
            raise ValueError("norm_variances_ must not be negative.")
        vectors += found
    return as_dtype(vectors, coefs[0].dtype)


def as_dtype(arrays: Sequence[Array], dtype: Any) -> list[Array]:
    """C-contiguous arrays of `dtype`, copied only if they are not."""
    return [np.ascontiguousarray(array, dtype=dtype) for array in arrays]


#: So much is taken without a question, and without asking the system.
ALWAYS_THERE = 2**28


def affordable(network: Network, n_bytes: int) -> None:
    """Refuse a network whose training does not fit into memory, before allocating for it.

    Parameters
    ----------
    network : Network
        The one to be trained.
    n_bytes : int
        What its training holds at once, at least.

    Raises
    ------
    MemoryError
        If that is more than the machine, or this process's share of it, has.
    """
    if n_bytes > ALWAYS_THERE and n_bytes > _memory_bytes():
        widths = [network.in_shape[0], *(layer.units for layer in network.layers)]
        raise MemoryError(
            f"Training layers of {widths} units needs at least {n_bytes / 2**30:.3g} GiB "
            f"({n_bytes} bytes for parameters, all that is kept beside them, and activations); "
            f"there are {_memory_bytes() / 2**30:.3g} GiB. Use smaller hidden_layer_sizes, a "
            "smaller batch_size, fewer features or precision='float32'."
        )


@lru_cache(maxsize=1)
def _memory_bytes() -> float:
    """Bytes of memory this process may ever have; infinity where no one says."""
    limits = []
    with suppress(AttributeError, OSError, ValueError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for file in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # no such file, or "max" in it
            limits.append(int(Path("/sys/fs/cgroup", file).read_text()))
    return float(min(limits, default=float("inf")))
