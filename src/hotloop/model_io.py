"""Model files: estimators as data. To read one executes nothing, and imports nothing it names.

A file has the safetensors format (https://github.com/huggingface/safetensors): eight bytes with
the length of a header, the header, which is JSON, and arrays end to end. The header's metadata
have one document, JSON again, with all that is no array::

    {"format": 1, "hotloop": "0.1.0", "class": "MLPClassifier",
     "parameters": {"solver": {"object": "AdamW", "parameters": {"beta_1": 0.9, ...}}, ...},
     "attributes": {"coefs_": [{"tensor": "coefs_.0"}, {"tensor": "coefs_.1"}], ...},
     "settings": {}, "functions": {"activation.1": ["silu", "silu_slope"]}}

Numbers, strings, truth values, null and lists stand for themselves in it. Whatever else is an
object that says its kind: :class:`_Decoder` lists them. Arrays and functions are known by their
*place*: the parameter or attribute, and the way from there, as in ``coefs_.0``. Of functions and
classes there are names: functions are asked for, classes looked up in the tables below.

Nothing that was read is believed. The layout is checked before anything is allocated, parameters
by the constraints of the estimator, attributes by the types that its class declares. Each array is
read once and takes the memory that it takes in the file; what JSON makes of a header, of 100 MB at
most, is a bounded multiple of it: an empty list takes two bytes there, and a hundred in memory. The
format takes so little to read that no library is needed, and a file that is cut off meanwhile is an
error here: in a file that such a library maps into memory it would be a signal.
"""

from __future__ import annotations

import errno
import inspect
import json
import math
import os
import stat
import types
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import fields
from functools import lru_cache, partial
from importlib import metadata
from numbers import Real
from typing import Any, BinaryIO, ClassVar, NoReturn, Union, get_args, get_origin, get_type_hints
from uuid import uuid4

import numpy as np

from . import compat, options, train

Array = np.ndarray
_version = lru_cache(maxsize=1)(metadata.version)

#: To be raised when a reader of the last one would misread what is written.
FORMAT = 1
#: Parts of a document and their types.
PARTS = {
    **{"format": int, "hotloop": str, "class": str},
    **dict.fromkeys(("parameters", "attributes", "settings", "functions"), dict),
}
#: dtypes by the names that the format has for them.
DTYPES = {
    **{f"F{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
    **{f"I{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
    "BOOL": np.dtype("?"),
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
#: NumPy's own limit depends on its version.
MOST_DIMENSIONS = 32
#: Bytes of a header that safetensors itself reads.
MOST_HEADER = 100_000_000
#: What makes something that a file can hold of something like it.
MAKERS: dict[type, str] = {
    **{np.ndarray: "np.asarray", str: "str", int: "int", float: "float"},
    **{Mapping: "dict", Iterable: "list"},
}
#: Missing functions that a message lists.
MOST_LISTED = 10
_OF_RECORDS: tuple[Any, ...] = (options.SOLVERS, options.SCHEDULES, options.NORMALIZATIONS)
_OTHERS: tuple[Any, ...] = (options.CLASSIFIER_LOSSES, options.REGRESSOR_LOSSES, options.AVERAGES)
#: The user's objects that there are.
OBJECTS: dict[str, Any] = {
    kind.__name__: kind
    for names in (*_OF_RECORDS, *_OTHERS)
    for kind in names.values()
    if isinstance(kind, type)
}
#: What a fit makes of them and keeps.
RECORDS: dict[str, Any] = {
    f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}": kind
    for kind in (
        *(option._record for names in _OF_RECORDS for option in names.values()),
        train.StochasticOptimizer,
    )
}


def save(estimator: Any, path: str | os.PathLike) -> None:
    """Write an estimator to a file.

    Parameters
    ----------
    estimator : MultilayerPerceptron
        Fitted or not.
    path : str or path-like
        The file; see :func:`whole_file`.

    Raises
    ------
    OSError
        If it cannot be written.
    TypeError
        If the estimator holds what a file cannot.
    ValueError
        If it could not be loaded: its parameters or attributes cannot be used.
    """
    estimator._validate_params()
    state = compat.without_callbacks(copy(estimator))._state()
    settings = compat.take_settings(state)
    encoder, hints = _Encoder(), declared(type(estimator))
    parameters = {name: state.pop(name) for name in estimator._get_param_names()}
    for name, value in state.items():
        if name not in hints or not _is(value, hints[name]):
            there = (
                "no attribute of that name. Delete it, or declare its type in a class of your own"
            )
            if name in hints:
                there = f"{inspect.formatannotation(hints[name])} there. Set it to that"
            raise TypeError(f"{name} is {value!r:.200}, and a model file has {there}.")
    estimator._require_whole()
    document = {
        "format": FORMAT,
        "hotloop": _version("hotloop"),
        "class": type(estimator).__name__,
        "parameters": encoder.each(parameters),
        "attributes": encoder.each(state),
        "settings": settings,
        "functions": encoder.functions,
    }
    _write(path, json.dumps(document, allow_nan=False), encoder.tensors)


def load(kind: Any, path: str | os.PathLike, functions: Mapping[str, Any] | None) -> Any:
    """Make an estimator of what :func:`save` wrote.

    Parameters
    ----------
    kind : type
        The estimator's class.
    path : str or path-like
        The file.
    functions : mapping of str to (callable or tuple), or None
        What parameters have to hold that no file can, by place.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is no model file, or not one for this class and version, or functions are missing.
    TypeError
        If `path` is no path, or `functions` no mapping.
    """
    path = os.fsdecode(path)
    if not isinstance(functions, Mapping | None):
        raise TypeError(
            f"functions must be a dict of functions by place, or None; got {functions!r:.200}."
        )
    try:
        with open(path, "rb") as file:
            header = _header(file)
            document = _document(header, kind)
            given = _given(document["functions"], functions or {})
            decoder = _Decoder(_tensors(file, header), given)
        loaded: Any = object.__new__(kind)
        loaded.__setstate__(_state(document, kind, decoder))
        compat.give_settings(loaded, document["settings"])
        loaded._validate_params()
        loaded._require_whole()
        return loaded
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} cannot be loaded: {error}") from error


@contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of an older one if all went well.

    It is written beside that, brought to the disk and then renamed: whatever happens there is the
    old file or the new one, whole, with the permissions of the old one. A process that is killed
    meanwhile leaves what it has written in a file whose name begins with a dot and ends in `.part`.
    """
    given = os.fsdecode(path)
    path = os.path.realpath(given)
    folder = os.path.dirname(path)
    if os.path.isdir(path) or os.path.basename(given) in ("", "."):
        raise IsADirectoryError(errno.EISDIR, "Is a directory", given)
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, "There is no such folder", folder)
    old = None
    with suppress(FileNotFoundError):
        old = os.stat(path).st_mode
    if old is not None and not stat.S_ISREG(old):
        raise OSError(errno.EINVAL, "Not a regular file", given)
    temporary = os.path.join(folder, f".{uuid4().hex}.part")
    private = partial(os.open, mode=0o666 if old is None else 0o600)
    try:
        with open(temporary, "xb", opener=private) as file:
            yield file
            file.flush()
            if old is not None:
                known: Any = file.fileno() if os.chmod in os.supports_fd else temporary
                os.chmod(known, old & 0o777)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


# ------------------------------------------------------------ the container


def _write(path: str | os.PathLike, document: str, tensors: Mapping[str, Array]) -> None:
    """Arrays in the order of their alignment, which then is right for all."""
    header: dict[str, Any] = {"__metadata__": {"hotloop": document}}
    names, end = sorted(tensors, key=lambda name: -tensors[name].itemsize), 0
    for name in names:
        array = tensors[name]
        begin, end = end, end + array.nbytes
        dtype = DTYPE_NAMES[array.dtype]
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": (begin, end)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MOST_HEADER:
        raise ValueError(
            f"all but arrays takes {len(text)} bytes in a model file, of {MOST_HEADER} in that "
            "format. Turn long lists into arrays."
        )
    with whole_file(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            file.write(tensors[name].data)


def _header(file: BinaryIO) -> dict[str, Any]:
    """What is said of each array by its name; the document is among them."""
    size, length = os.fstat(file.fileno()).st_size, int.from_bytes(file.read(8), "little")
    if length > size - 8:
        raise ValueError(
            f"{length} of its {size} bytes are to be a header. It is no safetensors file, or not "
            "all of one."
        )
    if length > MOST_HEADER:
        raise ValueError(f"its header has {length} bytes, and {MOST_HEADER} is the limit.")
    header = _json(file.read(length))
    if type(header) is not dict:
        raise ValueError("its header is no JSON object; it is no safetensors file.")
    return header


def _tensors(file: BinaryIO, header: Mapping[str, Any]) -> dict[str, Array]:
    """The arrays that a header announces, read if they fill the rest of the file."""
    entries: list[tuple[int, int, str, np.dtype, list[int]]] = []
    file_size = os.fstat(file.fileno()).st_size  # a dimension beside one of 0, too, takes time
    for name, entry in header.items():
        match entry:
            case {
                "dtype": str(dtype),
                "shape": list(shape),
                "data_offsets": [int(begin), int(end)],
            } if dtype in DTYPES and all(type(n) is int and 0 <= n <= file_size for n in shape):
                entries.append((begin, end, name, DTYPES[dtype], shape))
            case _:
                raise ValueError(f"its header has {_short(entry)} for the array {_short(name)}.")
    start, place = file.tell(), 0
    for begin, end, name, kind, shape in sorted(entries, key=lambda entry: entry[:2]):
        size = math.prod(shape[:MOST_DIMENSIONS]) * kind.itemsize
        if begin != place or end - begin != size or len(shape) > MOST_DIMENSIONS:
            raise ValueError(
                f"the array {_short(name)} of shape {_short(shape)} is said to be in bytes {begin} "
                f"to {end}, and not {place} to {place + size}."
            )
        place = end
    if start + place != file_size:
        raise ValueError(
            f"its arrays take {place} bytes, and not what there are. It may be cut off."
        )
    return {
        name: _array(file, start + begin, kind, shape) for begin, _, name, kind, shape in entries
    }


def _array(file: BinaryIO, start: int, dtype: np.dtype, shape: list[int]) -> Array:
    """An array from a file; a truth value that is neither 0 nor 1 would mislead NumPy."""
    file.seek(start)
    truth = dtype.kind == "b"
    stored = np.fromfile(file, np.uint8 if truth else dtype, math.prod(shape))
    array = stored.reshape(shape)
    if not truth:
        return array.astype(dtype.newbyteorder("="), copy=False)
    if array.max(initial=0) > 1:
        raise ValueError("an array of truth values holds others than 0 and 1.")
    return array.view(bool)


def _json(text: str | bytes) -> Any:
    """What a text says, which is to be strict JSON in UTF-8."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no JSON.")

    text = text.decode() if isinstance(text, bytes) else text
    return json.loads(text, parse_constant=refuse)


# ------------------------------------------------------------ the document


def _document(header: dict[str, Any], kind: Any) -> dict[str, Any]:
    """The document, taken out of a header, if it has one for that class of estimators."""
    held = header.pop("__metadata__", None)
    text = held.get("hotloop") if isinstance(held, dict) else None
    if not isinstance(text, str):
        raise ValueError("it holds arrays, but no model of hotloop. Load what `save` wrote.")
    document = _json(text)
    if not isinstance(document, dict):
        document = {}
    number, writer = document.get("format"), f"{document.get('hotloop')!r:.50}"
    if type(number) is int and number > FORMAT:
        raise ValueError(
            f"this file was written by hotloop {writer}, in format {number}, and hotloop "
            f"{_version('hotloop')} reads formats up to {FORMAT}. Update hotloop."
        )
    if {name: type(part) for name, part in document.items()} != PARTS or number != FORMAT:
        raise ValueError(f"its document has {_short(document)}, and not the parts {[*PARTS]}.")
    if document["class"] != kind.__name__:
        raise ValueError(
            f"it holds {_short(document['class'])}, and not {kind.__name__}. Load it by its class."
        )
    return document


def _given(wanted: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Functions of the user, if they are those that a file asks for."""
    asked = {}
    for place, names in wanted.items():
        if not isinstance(names, list) or len(names) not in (1, 2) or not all(map(_is_name, names)):
            raise ValueError(f"it has {_short(names)} for names of functions at {_short(place)}.")
        asked[place] = ", ".join(f"{name!s:.100}" for name in names)
        asked[place] = f"({asked[place]})" if len(names) == 2 else asked[place]
    listed = ", ".join(f"{_short(place)}: {asked[place]}" for place in [*asked][:MOST_LISTED])
    listed += f", and {len(asked) - MOST_LISTED} more" if len(asked) > MOST_LISTED else ""
    if asked.keys() - given.keys():
        raise ValueError(
            "a file has the names of functions, and where they belong. Pass the functions: "
            f"load(path, functions={{{listed}}})."
        )
    if given.keys() - asked.keys():
        raise ValueError(
            f"functions has {sorted(map(str, given.keys() - asked.keys()))}, but the file "
            + (f"asks for functions={{{listed}}}." if asked else "asks for none; leave it out.")
        )
    for place, names in wanted.items():
        value = given[place]
        parts = value if isinstance(value, tuple) else (value,)
        fits = isinstance(value, tuple) == (len(names) == 2) and len(parts) == len(names)
        pairs = zip(parts, names, strict=True) if fits else ()
        if not fits or not all(callable(part) or part is name is None for part, name in pairs):
            raise ValueError(
                f"functions[{place!r}] has to be as {asked[place]}, got {value!r:.200}."
            )
    return given


def _state(document: Mapping[str, Any], kind: Any, decoder: _Decoder) -> dict[str, Any]:
    """Parameters and attributes; the latter of the types that are declared."""
    hints, state, writer = declared(kind), {}, document["hotloop"]
    for part, known in (("parameters", kind._get_param_names()), ("attributes", hints)):
        for name, entry in document[part].items():
            if name not in known:
                raise ValueError(
                    f"{_short(name)} is none of the {part} of {kind.__name__}. hotloop "
                    f"{writer!r:.50} wrote the file, and this is {_version('hotloop')}. If that is "
                    "older, update it."
                )
            state[name] = decoder.decoded(entry, name)
            if part == "attributes" and not _is(state[name], hints[name]):
                wanted = inspect.formatannotation(hints[name])
                raise ValueError(f"{name} is {_short(entry)}, which is no {wanted}.")
    if decoder.tensors:
        raise ValueError(f"nothing refers to the arrays {_short([*decoder.tensors])}.")
    if decoder.functions:
        raise ValueError(f"nothing refers to the functions {_short([*decoder.functions])}.")
    return state


def declared(kind: Any) -> dict[str, Any]:
    """Attributes that a fit may set, and their types: what our class annotates and does not have,
    and what one derived from it annotates besides.
    """
    taken = {*dir(own_class(kind)), *kind._get_param_names()}
    return {
        name: hint
        for name, hint in _hints(kind).items()
        if name not in taken and ClassVar not in (hint, get_origin(hint))
    }


def own_class(kind: Any) -> Any:
    """The class of ours that an estimator's class is, or is derived from."""
    return next(base for base in kind.__mro__ if base.__module__.startswith(f"{__package__}."))


@lru_cache(maxsize=64)
def _hints(kind: Any) -> dict[str, Any]:
    """Types that a class annotates; anything goes where a name is known to type checkers only."""
    hints: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        try:
            hints |= get_type_hints(base)
        except (NameError, AttributeError, TypeError, SyntaxError):
            hints |= dict.fromkeys(vars(base).get("__annotations__", ()), Any)
    return hints


def _is(value: Any, hint: Any) -> bool:
    """Whether a value has a declared type, as far as one can tell; integers are counts, or the key
    of random words.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_is(value, one) for one in inner)
    if origin is list:
        return type(value) is list and all(_is(entry, inner[0]) for entry in value)
    if origin is dict:
        pairs = value.items() if type(value) is dict else [(None, None)]
        return all(_is(part, one) for pair in pairs for part, one in zip(pair, inner, strict=True))
    if hint in (int, float) and isinstance(value, bool):
        return False
    if hint is int:
        return isinstance(value, int | np.integer) and 0 <= int(value) < 2**64
    try:
        return isinstance(value, Real if hint is float else origin or hint)
    except TypeError:  # Any, Literal, protocols: nothing to tell it by
        return True


def _is_name(name: Any) -> bool:
    """Whether a function may be called that in a file; None stands for none."""
    return name is None or (isinstance(name, str) and (name.isidentifier() or name == "<lambda>"))


def _is_key(key: Any) -> bool:
    """Whether a file may have it in a dict: of larger integers any number have the same hash."""
    if type(key) is int:
        return -(2**63) <= key < 2**64
    return key is None or type(key) in (bool, str, float) or isinstance(key, np.generic)


def _short(value: Any) -> str:
    """A part of a file, for a message."""
    text = f"{value!r:.100}"
    return text if len(text) < 100 else f"{text}..."


# ------------------------------------------------------------ values


class _Encoder:
    """Makes JSON of values; what is none goes to `tensors` and, by name, to `functions`."""

    def __init__(self) -> None:
        self.tensors: dict[str, Array] = {}
        self.functions: dict[str, list[str | None]] = {}

    def each(self, values: Mapping[str, Any], place: str = "") -> dict[str, Any]:
        """JSON of named values."""
        return {name: self.encoded(value, f"{place}{name}") for name, value in values.items()}

    def encoded(self, value: Any, place: str) -> Any:
        """JSON of one value."""
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return value
        if kind is float:
            return value if math.isfinite(value) else {"float": str(value)}
        if isinstance(value, np.generic):
            return {"scalar": self._array(np.asarray(value), place)}
        if kind in (np.ndarray, np.memmap):
            return self._array(np.asarray(value, order="C"), place)
        if kind is tuple and any(map(callable, value)):
            return self._function(value, place)
        if kind in (list, tuple):
            entries = [self.encoded(entry, f"{place}.{i}") for i, entry in enumerate(value)]
            return entries if kind is list else {"tuple": entries}
        if kind is dict and all(map(_is_key, value)):
            pairs = enumerate(value.items())
            return {"dict": [self.encoded([*pair], f"{place}.{i}") for i, pair in pairs]}
        if kind is np.random.RandomState:
            state = value.get_state(legacy=False)
            if state["bit_generator"] == "MT19937":
                words, at = state["state"]["key"], state["state"]["pos"]
                parts = [words, int(at), int(state["has_gauss"]), float(state["gauss"])]
                return {"generator": self.encoded(parts, place)}
        if OBJECTS.get(kind.__name__) is kind:
            own = self._own(value, value.get_params(deep=False), place)
            return {"object": kind.__name__, "parameters": own}
        for name, record in RECORDS.items():
            if record is kind:
                own = {field.name: getattr(value, field.name) for field in fields(kind)}
                return {"record": name, "fields": self._own(value, own, place)}
        if callable(value) and not isinstance(value, type):
            return self._function((value,), place)
        raise self._refusal(value, place)

    def _own(self, value: Any, own: dict[str, Any], place: str) -> dict[str, Any]:
        """What one of our objects has, if that is all."""
        for name in vars(value).keys() - own.keys():
            raise TypeError(
                f"{place}.{name} is {vars(value)[name]!r:.200}, and a model file has no attribute "
                f"of that name. Delete it."
            )
        return self.each(own, f"{place}.")

    def _array(self, array: Array, place: str) -> Any:
        """Text as code points, with an axis more; text in objects as a list."""
        text = array.dtype.kind == "U"
        if array.dtype == object and array.ndim == 1 and {*map(type, array)} <= {str}:
            return {"strings": array.tolist()}
        if text:
            width = max(1, array.dtype.itemsize // 4)
            array = array.astype(f"=U{width}")[..., np.newaxis].view(np.uint32)
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        if array.dtype not in DTYPE_NAMES:
            raise self._refusal(array, place)
        self.tensors[place] = array
        return {"text" if text else "tensor": place}

    def _function(self, parts: tuple, place: str) -> Any:
        """What a user calls the functions; a lambda is called that."""
        names = [getattr(part, "__name__", type(part).__name__) for part in parts]
        self.functions[place] = [
            None if part is None else name if _is_name(name) else "function"
            for part, name in zip(parts, names, strict=True)
        ]
        return {"function": place}

    def _refusal(self, value: Any, place: str) -> TypeError:
        kind = value.dtype if type(value) is np.ndarray else type(value).__name__
        instead = ""
        if type(value) is np.ndarray and value.dtype == object:
            instead = " Make it np.array(...) of a list that holds numbers or strings alone."
        elif type(value) not in (np.ndarray, dict):
            makers = (name for base, name in MAKERS.items() if isinstance(value, base))
            instead = "".join(f" Make it {name}(...) of that." for name in [*makers][:1])
        return TypeError(
            f"{place} is {value!r:.200}, and a model file cannot hold {kind}. It can hold numbers, "
            "strings, lists, tuples, dicts by numbers or strings, arrays of numbers or strings, "
            f"RandomState of MT19937, and hotloop's own objects.{instead}"
        )


class _Decoder:
    """Makes values of JSON, each array at most once, and each function at its place."""

    def __init__(self, tensors: dict[str, Array], functions: Mapping[str, Any]) -> None:
        self.tensors = tensors
        self.functions = dict(functions)

    def decoded(self, entry: Any, place: str) -> Any:
        """The value that an entry of the document stands for, at a place."""
        match entry:
            case None | bool() | int() | float() | str():
                return entry
            case [*entries]:
                return [self.decoded(each, f"{place}.{i}") for i, each in enumerate(entries)]
            case {"float": "inf" | "-inf" | "nan" as text, **rest} if not rest:
                return float(text)
            case {"tuple": [*entries], **rest} if not rest:
                return tuple(self.decoded(entries, place))
            case {"dict": [*pairs], **rest} if not rest:
                return self._dict(self.decoded(pairs, place))
            case {"tensor": str(name), **rest} if not rest:
                return self._tensor(name)
            case {"text": str(name), **rest} if not rest:
                return self._text(self._tensor(name))
            case {"scalar": {**array}, **rest} if not rest:
                return self._scalar(self.decoded(array, place))
            case {"strings": [*strings], **rest} if not rest and {*map(type, strings)} <= {str}:
                return np.array(strings, dtype=object)
            case {"generator": [key, int(at), int(has_gauss), gauss], **rest} if not rest:
                key, gauss = self.decoded(key, place), self.decoded(gauss, place)
                return self._generator(key, at, has_gauss, gauss)
            case {"object": str(name), "parameters": dict(given), **rest} if not rest:
                return self._object(name, given, place)
            case {"record": str(name), "fields": dict(given), **rest} if not rest:
                return self._record(name, given, place)
            case {"function": str(name), **rest} if not rest and name == place in self.functions:
                return self.functions.pop(place)
        raise ValueError(f"{_short(entry)} stands for no value.")

    def _dict(self, pairs: list[Any]) -> dict[Any, Any]:
        for pair in pairs:
            if not isinstance(pair, list) or len(pair) != 2 or not _is_key(pair[0]):
                raise ValueError(f"{_short(pair)} is no key of a dict, and a value.")
        return dict(pairs)

    def _scalar(self, array: Any) -> Any:
        if not isinstance(array, np.ndarray) or array.ndim:
            raise ValueError(f"{_short(array)} is no scalar.")
        return array[()]

    def _tensor(self, name: str) -> Array:
        if name not in self.tensors:
            raise ValueError(f"the array {_short(name)} is not there, or is referred to twice.")
        return self.tensors.pop(name)

    def _text(self, points: Array) -> Any:
        """Strings of code points."""
        if points.dtype != np.uint32 or not points.ndim or not points.shape[-1]:
            raise ValueError(f"text is of shape {points.shape} and {points.dtype}, not uint32.")
        if points.max(initial=0) > 0x10FFFF:
            raise ValueError("text holds numbers that are no code points.")
        return points.view(f"U{points.shape[-1]}")[..., 0]

    def _generator(self, key: Any, at: int, has_gauss: int, gauss: Any) -> np.random.RandomState:
        """NumPy believes what it is told; a state of zeros would give nothing else for ever."""
        whole = isinstance(key, np.ndarray) and (key.shape, key.dtype) == ((624,), np.uint32)
        if not (whole and key[1:].any() and 0 <= at <= 624 and has_gauss in (0, 1)):
            raise ValueError("the state of a random generator is none of MT19937.")
        generator = np.random.RandomState(0)
        generator.set_state(("MT19937", key, at, has_gauss, float(gauss)))
        return generator

    def _object(self, name: str, given: Mapping[str, Any], place: str) -> Any:
        if name not in OBJECTS:
            raise ValueError(f"{_short(name)} is none of the objects {sorted(OBJECTS)}.")
        kind = OBJECTS[name]
        made = kind(**self._own(name, given, kind._get_param_names(), place))
        made._validate_params()
        return made

    def _record(self, name: str, given: Mapping[str, Any], place: str) -> Any:
        if name not in RECORDS:
            raise ValueError(f"{_short(name)} is none of the records {sorted(RECORDS)}.")
        kind = RECORDS[name]
        hints, known = _hints(kind), {field.name: field.init for field in fields(kind)}
        values = self._own(name, given, known, place)
        for field, value in values.items():
            if not _is(value, hints[field]):
                raise ValueError(f"{_short(value)} is no {field!r} of {name}.")
        made = kind(**{field: value for field, value in values.items() if known[field]})
        vars(made).update(values)
        return made

    def _own(
        self, kind: str, given: Mapping[str, Any], known: Iterable[str], place: str
    ) -> dict[str, Any]:
        """Values of fields that there are; a name of any length would be part of many places."""
        for name in given.keys() - {*known}:
            raise ValueError(f"{kind} has no {_short(name)}.")
        return {name: self.decoded(entry, f"{place}.{name}") for name, entry in given.items()}
