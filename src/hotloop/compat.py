"""All that differs between the supported scikit-learn versions (1.7, 1.8 and 1.9) and SciPy's.

The one place, too, where names come from scikit-learn's private modules, so that a
change there is a change here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, ref

import scipy
import sklearn
from sklearn.base import BaseEstimator
from sklearn.base import _fit_context as fit_context
from sklearn.utils._array_api import get_namespace_and_device
from sklearn.utils._metadata_requests import SIMPLE_METHODS
from sklearn.utils._param_validation import (
    Interval,
    Options,
    StrOptions,
    validate_parameter_constraints,
)
from sklearn.utils.optimize import _check_optimize_result
from sklearn.utils.validation import _check_sample_weight

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:  # scikit-learn 1.7 and 1.8 have no callbacks

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands where scikit-learn 1.9's mixin would: adds nothing."""

    HAS_CALLBACKS = False
else:
    HAS_CALLBACKS = True

__all__ = [
    "HAS_CALLBACKS",
    "LBFGS_VECTORS",
    "CallbackSupportMixin",
    "FitTasks",
    "Interval",
    "Options",
    "StrOptions",
    "check_sample_weight",
    "fit_context",
    "give_settings",
    "in_library_of",
    "lbfgs_options",
    "lbfgs_result",
    "parameter_names",
    "require_callbacks",
    "take_settings",
    "validate_parameters",
    "without_callbacks",
]

#: Types of parameters that are judged by their value alone, and are equal only where a
#: constraint cannot tell them apart.
PLAIN_TYPES = (int, float, str, bool, type(None))
#: (name, type, value) of parameters that passed, by class; so many at most.
_PASSED: WeakKeyDictionary[type, set] = WeakKeyDictionary()
MOST_PASSED = 1024
#: Entries of a tuple among them, and characters of a string.
LONGEST_PASSED = 64
#: Names of the parameters of a class and the __init__ they are of, which may hold the class.
_NAMES: WeakKeyDictionary[type, tuple[ReferenceType | None, tuple[str, ...]]] = WeakKeyDictionary()


class FitTasks:
    """The tasks of one fit as its callbacks see them: the fit, and one for each iteration.

    Without callbacks, and on scikit-learn versions that have none, every method does
    nothing.

    Parameters
    ----------
    estimator : estimator
        The one being fitted, which has been given the callbacks.
    X, y : array-like
        As the user gave them to fit; handed to the callbacks.
    sample_weight : array-like or None
        Handed to the callbacks as metadata.
    max_iter : int
        How many iterations (epochs, or steps of L-BFGS) there can be.
    describe : callable
        Makes the attributes of a fitted estimator from what a `snapshot` returns; called
        only if a callback asks for the fitted estimator.

    Attributes
    ----------
    active : bool
        Whether any callback listens, so that iterations must be told one by one.
    """

    def __init__(
        self,
        estimator: Any,
        X: Any,
        y: Any,
        sample_weight: Any,
        max_iter: int,
        describe: Callable[[Any], dict[str, Any]],
    ) -> None:
        known = vars(estimator)
        self.active = HAS_CALLBACKS and bool(known.get("_skl_callbacks"))
        self._fit_task: Any = None
        self._iteration_task: Any = None
        metadata = {} if sample_weight is None else {"sample_weight": sample_weight}
        self._describe = describe
        self._told = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
        if self.active or "_parent_callback_ctx" in known:
            self._fit_task = estimator._init_callback_context(max_subtasks=max_iter)
            self._fit_task.call_on_fit_task_begin(**self._told)

    def begin_iteration(self, snapshot: Callable[[], Any]) -> None:
        """Tell the callbacks that an iteration begins, unless one is under way."""
        if self.active and self._iteration_task is None:
            self._iteration_task = self._fit_task.subcontext(task_name="iteration")
            self._iteration_task.call_on_fit_task_begin(**self._about(snapshot))

    def end_iteration(self, snapshot: Callable[[], Any]) -> bool:
        """Tell the callbacks that the iteration ended; whether one of them asks to stop."""
        task, self._iteration_task = self._iteration_task, None
        return task is not None and bool(task.call_on_fit_task_end(**self._about(snapshot)))

    def end(self, snapshot: Callable[[], Any]) -> None:
        """Tell the callbacks that the fit ended, and the iteration if one is under way."""
        self.end_iteration(snapshot)
        if self._fit_task is not None:
            self._fit_task.call_on_fit_task_end(**self._about(snapshot))

    def _about(self, snapshot: Callable[[], Any]) -> dict[str, Any]:
        return {
            **self._told,
            "reconstruction_attributes": lambda: self._describe(snapshot()),
        }


def require_callbacks(name: str) -> None:
    """Refuse a callback where estimators cannot have any."""
    if not HAS_CALLBACKS:
        raise RuntimeError(
            f"{name} needs the callbacks of scikit-learn 1.9 or later; here is "
            f"{sklearn.__version__}."
        )


def without_callbacks(fitted: Any) -> Any:
    """An estimator that callbacks were handed during a fit, less all that is of that fit."""
    for name in (*("_skl_callbacks", "_skl_callbacks_to_teardown"), *_CONTEXTS):
        vars(fitted).pop(name, None)
    return fitted


#: Where scikit-learn keeps the tasks of a fit during it.
_CONTEXTS = ("_callback_fit_ctx", "_parent_callback_ctx")


def take_settings(state: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What scikit-learn's methods have set, taken out of an estimator's attributes.

    Parameters
    ----------
    state : dict
        Attributes; less those when this returns.

    Returns
    -------
    dict of dict
        By method what metadata it asks for (`set_fit_request` and its like), and under
        "set_output" what that was told.
    """
    requests = state.pop("_metadata_request", None)
    found = {}
    for method in SIMPLE_METHODS if requests is not None else ():
        if getattr(requests, method).requests:
            found[method] = dict(getattr(requests, method).requests)
    if "_sklearn_output_config" in state:
        found["set_output"] = dict(state.pop("_sklearn_output_config"))
    return found


def give_settings(estimator: Any, settings: dict[str, Any]) -> None:
    """Set an estimator as :func:`take_settings` has found another; ValueError if there is no such
    setting.
    """
    requests = estimator.get_metadata_routing()
    for method, values in settings.items():
        known = getattr(requests, method).requests if method in SIMPLE_METHODS else {}
        given: dict[Any, Any] = values if isinstance(values, dict) else {None: None}
        if method == "set_output" and all(isinstance(name, str) for name in given.values()):
            estimator.set_output(**given)
        elif given.keys() <= known.keys():
            for name, alias in given.items():
                getattr(requests, method).add_request(param=name, alias=alias)
            estimator._metadata_request = requests
        else:
            raise ValueError(f"there is no such setting as {method!r:.50} of {values!r:.100}.")


def parameter_names(cls: type) -> tuple[str, ...]:
    """Names that scikit-learn reads from a signature at each call."""
    init = cls.__init__  # type: ignore[misc]
    if init is object.__init__:
        return ()
    made_from, names = _NAMES.get(cls, (None, ()))
    if made_from is None or made_from() is not init:
        names = tuple(BaseEstimator._get_param_names.__func__(cls))
        _NAMES[cls] = ref(init), names
    return names


def validate_parameters(estimator: Any) -> None:
    """Judge parameters as scikit-learn does at every fit, but plain values only once a class.

    Parameters
    ----------
    estimator : estimator
        With ``_parameter_constraints``.

    Raises
    ------
    ValueError
        For the first parameter, in order of the alphabet, that breaks its constraints.
    """
    cls = type(estimator)
    passed = _PASSED.setdefault(cls, set())
    unknown, keys = {}, []
    for name, value in estimator.get_params(deep=False).items():
        key = None
        short = not isinstance(value, str | tuple) or len(value) <= LONGEST_PASSED
        if short and (
            type(value) in PLAIN_TYPES
            or (type(value) is tuple and all(type(entry) is int for entry in value))
        ):
            key = (name, type(value), value)
            if key in passed:
                continue
            keys.append(key)
        unknown[name] = value
    if unknown:
        validate_parameter_constraints(
            estimator._parameter_constraints, unknown, caller_name=cls.__name__
        )
        if len(passed) > MOST_PASSED:
            passed.clear()
        passed.update(keys)


def check_sample_weight(sample_weight: Any, X: Any) -> Any:
    """Sample weights as scikit-learn 1.9 checks them, an all-zero vector refused.

    Parameters
    ----------
    sample_weight : float or array-like of shape (n,)
        The weights; one number stands for n of them.
    X : {ndarray, sparse matrix} of shape (n, I)
        The validated input.

    Returns
    -------
    ndarray of shape (n,), float32 or float64
        The weights, C-contiguous.

    Raises
    ------
    ValueError
        For a wrong shape, values that are not finite, or all of them zero.
    """
    weights = _check_sample_weight(sample_weight, X)
    if not weights.any():  # 1.7 and 1.8 let it pass
        raise ValueError("Sample weights must contain at least one non-zero number.")
    return weights


def in_library_of(X: Any, result: Any) -> Any:
    """An array as one of X's library, on X's device, as ``array_api_dispatch`` has it.

    Parameters
    ----------
    X : array
        Of any library.
    result : ndarray
        Numbers.

    Returns
    -------
    array or None
        None if scikit-learn knows no array API of that library.
    """
    try:
        library, _, device = get_namespace_and_device(X)
    except TypeError:
        return None
    return library.asarray(result, device=device)


#: SciPy's L-BFGS-B is in C from 1.15 on.
_LBFGS_IN_C = tuple(map(int, scipy.__version__.split(".")[:2])) >= (1, 15)
#: Vectors as long as the parameters that it and its ten pairs take at most.
LBFGS_VECTORS = 25 if _LBFGS_IN_C else 50


def lbfgs_options(verbose: bool | int) -> dict[str, int]:
    """Options that make SciPy's L-BFGS-B print its progress; SciPy 1.15 and later never do."""
    if _LBFGS_IN_C:
        return {}
    return {"iprint": 1 if verbose else -1}


def lbfgs_result(result: Any, max_iter: int) -> int:
    """Warn like scikit-learn when L-BFGS has not converged; the number of iterations done."""
    return _check_optimize_result("lbfgs", result, max_iter)
