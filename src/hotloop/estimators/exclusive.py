"""One fit of an estimator at a time."""

from __future__ import annotations

import os
from functools import wraps
from typing import Any
from weakref import ref

#: Estimators that are being fitted, by id, with a weak reference to what lives as long as the fit:
#: an interrupt at the worst moment may leave an entry, but not what it refers to. A forked child
#: fits none.
_FITTING: dict[int, Any] = {}
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_FITTING.clear)


class _Fit:
    """Lives as long as a fit."""


def exclusive(method: Any) -> Any:
    """Refuse a fit of an estimator that is being fitted, before anything of it is touched."""

    @wraps(method)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        fit = _Fit()
        mine = ref(fit)
        if _FITTING.setdefault(id(self), mine) is not mine:
            if _FITTING[id(self)]() is not None:
                raise RuntimeError(
                    f"This {type(self).__name__} is being fitted already, by another thread or by "
                    "a callback of that fit. Wait for it, or fit a clone (sklearn.base.clone)."
                )
            _FITTING[id(self)] = mine
        try:
            return method(self, *args, **kwargs)
        finally:
            _FITTING.pop(id(self), None)

    return wrapper
