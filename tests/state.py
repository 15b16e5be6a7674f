"""The whole state of an object as plain nested tuples, so that two can be compared bit for bit."""

import numpy as np
import scipy.sparse


def state_of(thing):
    """Everything an object holds: arrays by dtype, shape and bytes, objects by attributes."""
    if isinstance(thing, np.ndarray):
        content = tuple(thing.ravel()) if thing.dtype == object else thing.tobytes()
        return (thing.dtype.str, thing.shape, content)
    if isinstance(thing, dict):
        return tuple((key, state_of(thing[key])) for key in sorted(thing, key=repr))
    if isinstance(thing, (list, tuple)):
        return (type(thing).__name__, *map(state_of, thing))
    if isinstance(thing, np.random.RandomState):
        return state_of(thing.get_state())
    if scipy.sparse.issparse(thing):
        return state_of(vars(thing))
    if isinstance(thing, (type(None), bool, int, float, complex, str, bytes, type, np.generic)):
        return (type(thing).__name__, repr(thing))
    slots = {name: getattr(thing, name) for name in getattr(thing, "__slots__", ())}
    return (type(thing).__qualname__, state_of({**slots, **getattr(thing, "__dict__", {})}))
