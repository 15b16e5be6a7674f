"""The user's objects: what has parameters of its own, given where a name would do.

An object is mutable and searchable like an estimator (``solver__weight_decay``), is checked when a
fit begins, and makes the frozen records of :mod:`hotloop.spec` that plans are compiled from. A name
stands for an object with its defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from sklearn.base import BaseEstimator

from .compat import validate_parameters


class Option(BaseEstimator):
    """An object that a parameter of an estimator may be."""

    _parameter_constraints: ClassVar[dict] = {}

    def _validate_params(self) -> None:
        validate_parameters(self)


def chosen(parameter: str, given: Any, names: Mapping[str, type[Option]]) -> Option:
    """The object that was given for a parameter, checked; of a name the one with its defaults.

    Parameters
    ----------
    parameter : str
        Name of the estimator's parameter, for messages.
    given : str or Option
        What the user set it to.
    names : mapping of str to type
        The names there are.

    Raises
    ------
    ValueError
        If a field of the object cannot be used, or there is no such name.
    """
    if isinstance(given, str):
        if given not in names:
            raise ValueError(f"{parameter} must be one of {sorted(names)}, got {given!r}.")
        return names[given]()
    if not isinstance(given, tuple(names.values())):
        kinds = ", ".join(sorted(kind.__name__ for kind in names.values()))
        raise ValueError(
            f"{parameter} must be one of {sorted(names)} or an object of {kinds}, got {given!r}."
        )
    given._validate_params()
    return given


def refuse_beside(parameter: str, given: Any, flat: Mapping[str, tuple[Any, Any]]) -> None:
    """Refuse parameters of an estimator that say what the fields of an object say.

    Parameters
    ----------
    parameter : str
        Name of the estimator's parameter that an object was given for.
    given : Option
        The object.
    flat : mapping of str to (value, default)
        The estimator's parameters that belong to the object.

    Raises
    ------
    ValueError
        If one of them is not at its default.
    """
    for name, (value, default) in flat.items():
        if value != default:
            raise ValueError(
                f"{name}={value!r} beside {parameter}={given!r} would be a second way to say one "
                f"thing. Set it in the object, and leave {name} at {default!r}."
            )


__all__ = ["Option", "chosen", "refuse_beside"]
