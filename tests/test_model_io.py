"""A model file gives the estimator back bit for bit; test_model_files.py is of all else in one."""

import errno
import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from contextlib import contextmanager
from typing import Any, Literal, Protocol
from unittest.mock import Mock

import numpy as np
import pytest
import scipy.sparse
import sklearn
from numpy.typing import NDArray
from sklearn.datasets import load_iris
from sklearn.metrics import get_scorer

import hotloop
from hotloop import MLPClassifier, MLPRegressor, model_io
from state import state_of

X, y = load_iris(return_X_y=True)
X, y = X[::3], y[::3]
WORDS = np.array(["ab", "cde", "f"])[y]
pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning", "ignore:.*came to its end"
)


class Unjudged(Protocol):
    """Nothing that isinstance knows."""


def silu(z):
    return z / (1 + 2.718281828459045**-z)


def silu_slope(z):
    p = 1 / (1 + 2.718281828459045**-z)
    return p * (1 + z * (1 - p))


def fitted(kind=MLPClassifier, X=X, y=y, **parameters):
    defaults = {"hidden_layer_sizes": (5, 4), "max_iter": 3, "random_state": 0}
    return kind(**{**defaults, **parameters}).fit(X, y)


def reloaded(estimator, path, functions=None):
    estimator.save(path)
    return type(estimator).load(path, functions)


def framed(X):
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame(X, columns=["a", "b", "c", "\u00e9\u732b"])


def generator_with_half_a_pair():
    """Normal numbers are drawn in pairs, and the second is kept."""
    generator = np.random.RandomState(3)
    generator.normal()
    return generator


#: What is fitted, on what.
CLASSIFIERS = {
    "plain": {},
    **{
        solver: {"solver": solver}
        for solver in ("sgd", "lbfgs", "adamw", "nadam", "amsgrad", "rmsprop", "adagrad", "lion")
    },
    "muon": {"solver": "muon", "hidden_layer_sizes": (5, 4, 3)},
    "objects": {
        "solver": hotloop.AdamW(weight_decay=0.1, beta_1=np.float64(0.8)),
        "learning_rate": hotloop.Warmup(then=hotloop.OneCycle(max_momentum=None)),
        "loss": hotloop.LogLoss(label_smoothing=0.1),
        "averaging": hotloop.EMA(decay=0.9),
        "normalization": hotloop.BatchNorm(momentum=0.3),
    },
    "layer_norm": {"normalization": "layer", "solver": "lbfgs"},
    "swa": {"averaging": hotloop.SWA(start=0.3)},
    "adaptive": {"learning_rate": "adaptive", "solver": "sgd", "tol": 10.0, "max_iter": 20},
    "invscaling": {"learning_rate": "invscaling", "solver": "sgd", "power_t": 0.3},
    "drawn": {"dropout": [0.2, 0.1], "input_dropout": 0.1, "input_noise": 0.1, "mixup": 0.3},
    "early": {"early_stopping": True, "n_iter_no_change": np.inf},
    "early_loss": {"early_stopping": True, "scoring": "loss"},
    "frozen": {"frozen_layers": np.array([0]), "clip_norm": 1.0, "clip_value": 0.5, "max_norm": 2},
    "activations": {"activation": ["gelu", "mish"], "init": "orthogonal", "l1_ratio": 0.5},
    "float32": {"X": X.astype(np.float32), "precision": "auto"},
    "forced": {"precision": "float32", "alpha": np.float32(0.001)},
    "sparse": {"X": scipy.sparse.csr_matrix(X), "sparse_updates": "lazy"},
    "binary": {"y": y > 1},
    "one_class": {"y": y * 0},
    "words": {"y": WORDS},
    "objects_of_str": {"y": WORDS.astype(object)},
    "floats": {"y": y + 0.0},
    "int8": {"y": y.astype(np.int8)},
    "weights": {"y": WORDS, "class_weight": {"ab": 2.0, "f": 0.5}},
    "weights_by_number": {"class_weight": {np.int64(0): 2.0, 2: 0.5}},
    "indicator": {"y": np.eye(3, dtype=int)[y]},
    "sparse_indicator": {"y": scipy.sparse.csr_matrix(np.eye(3, dtype=int)[y])},
    "several": {"y": np.stack([y, y > 0], axis=1), "loss": "log_loss"},
    "several_words": {"y": np.stack([WORDS, WORDS[::-1]], axis=1).astype(object)},
    "hinge": {"loss": "hinge"},
    "binary_hinge": {"loss": "squared_hinge", "y": y > 1},
    "focal": {"loss": hotloop.Focal(gamma=1.5)},
    "generator": {"random_state": generator_with_half_a_pair(), "init": "he_normal"},
    "no_hidden_layer": {"hidden_layer_sizes": ()},
    "names": {"X": framed, "hidden_layer_sizes": np.array([3])},
    "init": {
        "init": ([np.eye(4, 2), np.eye(2, 3)], [[0, 0.5], (1, 2, 3)]),
        "hidden_layer_sizes": [2],
    },
    "one_thread": {"n_jobs": 1, "max_time_s": 1e9, "verbose": np.bool_(False)},
    "emulated": {"precision": "bfloat16_emulated"},
}
REGRESSORS = {
    "plain": {},
    "lbfgs": {"solver": "lbfgs"},
    "two": {"y": np.stack([y, y + 1.0], axis=1)},
    "huber": {"loss": hotloop.Huber(delta=0.5), "learning_rate": "cosine"},
    "quantiles": {"loss": hotloop.Quantile(quantiles=(0.1, 0.5))},
    "quantile_array": {"loss": hotloop.Quantile(quantiles=np.array([0.1, 0.5]))},
    "tweedie": {"loss": hotloop.Tweedie(), "y": y + 1.0},
    "early": {"early_stopping": True, "averaging": "ema", "normalization": "batch"},
}
CASES = [
    pytest.param(kind, case, id=f"{kind.__name__}-{name}")
    for kind, cases in ((MLPClassifier, CLASSIFIERS), (MLPRegressor, REGRESSORS))
    for name, case in cases.items()
]
NUMBA = pytest.param(
    MLPClassifier, {"backend": "numba"}, marks=pytest.mark.slow, id="MLPClassifier-numba"
)


def rows_of(case):
    given = case.get("X", X)
    return (given(X) if callable(given) else given), case.get("y", y)


def trained(estimator, rows):
    """What training has made of it: by partial_fit, and by a warm start from there."""
    swa = isinstance(estimator.averaging, hotloop.SWA)
    if hasattr(estimator, "partial_fit") and not (estimator.early_stopping or swa):
        estimator.partial_fit(*rows)
    return estimator.set_params(warm_start=True, max_iter=2, scoring=None).fit(*rows)


@pytest.mark.parametrize(("kind", "case"), [*CASES, NUMBA])
def test_a_file_gives_the_estimator_back(kind, case, tmp_path):
    """Each attribute, and predictions; training goes on as after a pickle, bit for bit."""
    if case.get("backend") == "numba":
        pytest.importorskip("numba")
    rows = rows_of(case)
    parameters = {k: v for k, v in case.items() if k not in ("X", "y")}
    estimator = fitted(kind, *rows, **parameters)
    other = reloaded(estimator, tmp_path / "model")
    pickled = pickle.loads(pickle.dumps(estimator))
    assert not differing(estimator, other)
    for method in ("predict", "predict_proba", "decision_function", "transform"):
        if hasattr(estimator, method):
            results = [state_of(getattr(each, method)(rows[0])) for each in (estimator, other)]
            assert len({*results}) == 1, method
    one, two, three = (trained(each, rows) for each in (estimator, other, pickled))
    assert not differing(one, two)
    assert not differing(two, three)


def differing(one, two):
    """Names of attributes and parameters that are not the same bit for bit."""
    assert {*vars(one)} == {*vars(two)}
    return [name for name in vars(one) if state_of(vars(one)[name]) != state_of(vars(two)[name])]


def test_every_attribute_of_a_fit_is_declared_and_no_other(tmp_path):
    """The types by which files are judged are those of all the cases above, and each is met."""
    met = set()
    for case in CASES:
        kind, given = case.values
        parameters = {k: v for k, v in given.items() if k not in ("X", "y")}
        estimator = fitted(kind, *rows_of(given), **parameters)
        names = {*vars(estimator)} - {*estimator.get_params(deep=False)}
        assert names <= {*model_io.declared(kind)}
        met |= names
    assert met == {*model_io.declared(MLPClassifier), *model_io.declared(MLPRegressor)}


def test_an_unfitted_estimator_has_its_parameters(tmp_path):
    estimator = MLPRegressor(
        "huber", [3, 2], solver=hotloop.Lion(beta_2=0.5), n_iter_no_change=np.inf
    )
    other = reloaded(estimator, tmp_path / "model")
    assert not differing(estimator, other)
    assert not hasattr(other, "coefs_")


def test_other_byte_orders_are_read_as_numbers_of_this_machine(tmp_path):
    estimator = fitted(y=WORDS)
    estimator.classes_ = estimator.classes_.astype(">U3")
    estimator.coefs_ = [coef.astype(">f8") for coef in estimator.coefs_]
    other = reloaded(estimator, tmp_path / "model")
    assert other.classes_.dtype == np.dtype("U3")
    assert other.coefs_[0].dtype == np.dtype("f8")
    np.testing.assert_array_equal(other.predict(X), estimator.predict(X))


def test_loading_restores_the_one_vector(tmp_path):
    """As after unpickling, coefs_ and intercepts_ are writable views of one vector."""
    loaded = reloaded(fitted(), tmp_path / "model")
    arrays = [*loaded.coefs_, *loaded.intercepts_]
    starts = [a.__array_interface__["data"][0] for a in arrays]
    ends = [start + a.nbytes for start, a in zip(starts, arrays, strict=True)]
    assert starts[1:] == ends[:-1]
    assert all(a.flags.writeable for a in arrays)


def test_settings_are_kept_and_callbacks_are_not(tmp_path):
    pytest.importorskip("pandas")
    estimator = fitted(X=framed(X)).set_output(transform="pandas")
    with sklearn.config_context(enable_metadata_routing=True):
        estimator.set_fit_request(X_val=True, sample_weight="w").set_score_request(
            sample_weight=False
        )
    if hasattr(estimator, "set_callbacks"):
        estimator.set_callbacks(hotloop.Checkpoint(tmp_path / "best"))
    other = reloaded(estimator, tmp_path / "model")
    assert str(other.get_metadata_routing()) == str(estimator.get_metadata_routing())
    assert list(other.transform(framed(X)).columns) == list(estimator.transform(framed(X)).columns)
    assert "_skl_callbacks" not in vars(other)


def test_a_model_loads_in_another_process_and_nothing_is_executed(tmp_path):
    """And nothing is compiled, executed or imported, which the interpreter would tell."""
    estimator = fitted(solver=hotloop.NAdam(), y=WORDS, random_state=np.random.RandomState(1))
    estimator.save(tmp_path / "model")
    np.savez(tmp_path / "data", X=X, expected=estimator.predict(X))
    code = (
        "import sys, numpy as np, hotloop\n"
        "data, events = np.load('data.npz'), set()\n"
        "X, expected = data['X'], data['expected']\n"
        "hotloop.MLPClassifier.load('model')  # which reads our own annotations\n"
        "sys.addaudithook(lambda event, _: events.add(event))\n"
        "clf = hotloop.MLPClassifier.load('model')\n"
        "assert 'open' in events\n"
        "assert events <= {'open', 'builtins.id', 'object.__getattr__'}, events\n"
        "assert (clf.predict(X) == expected).all()\n"
    )
    command = [sys.executable, "-c", code]
    child = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert child.returncode == 0, child.stderr


# ------------------------------------------------------------ functions


FUNCTIONS = {
    "activation": {"activation": (silu, silu_slope)},
    "activation.1": {"activation": ["relu", (silu, silu_slope)]},
    "loss": {"loss": (lambda y, z: (y - z) ** 2, lambda y, z: 2 * (z - y))},
    "scoring": {"scoring": get_scorer("r2"), "early_stopping": True},
}


@pytest.mark.parametrize("place", FUNCTIONS)
def test_functions_are_asked_for_by_place(place, tmp_path):
    """Names only are in the file; given again, they are where they were."""
    estimator, path = MLPRegressor(**FUNCTIONS[place]), tmp_path / "model"
    name, _, index = place.partition(".")
    function = estimator.get_params()[name]
    function = function[int(index)] if index else function
    estimator.save(path)
    with pytest.raises(ValueError, match=rf"load\(path, functions={{'{place}': "):
        MLPRegressor.load(path)
    other = MLPRegressor.load(path, functions={place: function})
    assert other.get_params() == estimator.get_params()
    with pytest.raises(ValueError, match=r"functions has \['other'\], but the file asks for"):
        MLPRegressor.load(path, functions={place: function, "other": silu})
    wrong = [3, (silu, silu, silu), silu if place != "scoring" else (silu, silu)]
    for value in wrong:
        with pytest.raises(ValueError, match=r"functions\['.*'\] has to be as "):
            MLPRegressor.load(path, functions={place: value})
    if place != "scoring":
        with pytest.raises(ValueError, match="must be a function of"):
            MLPRegressor.load(path, functions={place: (lambda: 0, lambda: 0)})


def test_functions_that_nobody_asked_for_are_refused(tmp_path):
    MLPRegressor().save(tmp_path / "model")
    with pytest.raises(ValueError, match="the file asks for none; leave it out"):
        MLPRegressor.load(tmp_path / "model", functions={"activation": silu})


def test_missing_functions_are_told_before_arrays_are_read(tmp_path, monkeypatch):
    MLPRegressor(activation=silu).save(tmp_path / "model")
    monkeypatch.setattr(model_io, "_tensors", lambda *_: pytest.fail("read"))
    with pytest.raises(ValueError, match=r"{'activation': silu}"):
        MLPRegressor.load(tmp_path / "model")


@pytest.mark.slow
def test_a_model_with_functions_predicts_the_same(tmp_path):
    pytest.importorskip("numba")
    estimator = fitted(MLPRegressor, activation=["tanh", (silu, silu_slope)])
    other = reloaded(estimator, tmp_path / "model", {"activation.1": (silu, silu_slope)})
    assert not differing(estimator, other)
    np.testing.assert_array_equal(estimator.predict(X), other.predict(X))


# ------------------------------------------------------------ what cannot be saved


def test_what_a_file_cannot_hold_is_a_type_error(tmp_path):
    class Mine(hotloop.AdamW):
        pass

    for name, value in {
        "solver": Mine(),
        "random_state": np.random.RandomState(np.random.PCG64(1)),
        "class_weight": {0: np.longdouble(1)},
        "frozen_layers": np.array(["2020-01-01"], dtype="M8[D]"),
        "init": [np.ones(2), object()],
        "scoring": MLPClassifier,
    }.items():
        with pytest.raises(TypeError, match=f"^{name}.* is .*, and a model file cannot hold"):
            MLPClassifier(**{name: value}).save(tmp_path / "model")
    estimator = fitted()
    estimator.note = "mine"
    with pytest.raises(TypeError, match=r"^note is 'mine', and a model file has no attribute"):
        estimator.save(tmp_path / "model")
    solver = hotloop.AdamW()
    solver.note = 1
    with pytest.raises(TypeError, match=r"^solver\.note is 1, and a model file has no attribute"):
        MLPClassifier(solver=solver).save(tmp_path / "model")
    estimator = fitted()
    estimator.loss_ = "small"
    with pytest.raises(TypeError, match=r"^loss_ is 'small', and a model file has float there"):
        estimator.save(tmp_path / "model")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "maker"),
    [
        ("class_weight", OrderedDict({0: 1.0}), "dict"),
        ("hidden_layer_sizes", range(1, 3), "list"),
        ("frozen_layers", np.ma.array([0]), "np.asarray"),
        ("init", [np.eye(2).view(type("Mine", (np.ndarray,), {}))], "np.asarray"),
        ("init", [np.array("ab").view(type("Mine", (np.ndarray,), {}))], "np.asarray"),
        ("init", [{1, 2}], "list"),
        ("init", [np.array([1, "a"], dtype=object)], "np.array"),
    ],
)
def test_it_is_said_what_to_make_of_it(name, value, maker, tmp_path):
    with pytest.raises(TypeError, match=rf"cannot hold .* Make it {maker}\(\.\.\.\) of "):
        MLPClassifier(**{name: value}).save(tmp_path / "model")


@pytest.mark.parametrize("name", ["classes_", "coefs_", "out_activation_", "_normalization"])
def test_attributes_of_other_types_are_type_errors(name, tmp_path):
    estimator = fitted()
    setattr(estimator, name, 3)
    with pytest.raises(TypeError, match=rf"^{name} is 3, and a model file has "):
        estimator.save(tmp_path / "model")


def test_memory_maps_are_arrays(tmp_path):
    mapped = np.memmap(tmp_path / "numbers", np.float64, "w+", shape=(2,))
    other = reloaded(MLPClassifier(init=[mapped]), tmp_path / "model")
    assert type(other.init[0]) is np.ndarray


def test_what_could_not_be_loaded_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="alpha"):
        MLPClassifier(alpha=-1).save(tmp_path / "model")
    estimator = fitted()
    estimator.coefs_ = estimator.coefs_[1:]
    with pytest.raises(ValueError, match="coefs_"):
        estimator.save(tmp_path / "model")
    assert not os.listdir(tmp_path)


def test_a_class_of_ones_own_is_saved_with_what_it_declares(tmp_path):
    class Noted(MLPRegressor):
        note: str

    estimator = Noted().fit(X, y)
    estimator.note = "mine"
    estimator.save(tmp_path / "model")
    assert not differing(Noted.load(tmp_path / "model"), estimator)
    with pytest.raises(ValueError, match="it holds 'Noted', and not MLPRegressor"):
        MLPRegressor.load(tmp_path / "model")


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        *((Any, 1), (tuple[int, ...], (1, 2)), (list, [1]), (Literal["a"], "a"), ("Nowhere", 1)),
        *((NDArray[np.float64], np.ones(2)), (str | None, None), (np.float64, np.float64(1))),
        (Unjudged, 1),
    ],
)
@pytest.mark.parametrize("default", [{}, {"note": None}])
def test_a_class_of_ones_own_may_declare_anything(hint, value, default, tmp_path):
    own = {"__annotations__": {"note": hint, "unset": int}, "__module__": __name__, **default}
    kind = type("Noted", (MLPRegressor,), {**own, "__init__": MLPRegressor.__init__})
    estimator = kind(max_iter=2).fit(X, y)
    reloaded(estimator, tmp_path / "model")
    for each in (estimator, kind()):
        each.note = value
        assert not differing(reloaded(each, tmp_path / "model"), each)


def test_a_pruned_network_is_saved_and_its_moments_are_of_no_use(tmp_path):
    """Hidden units taken away: predictions go on, and partial_fit says why it does not."""
    estimator = fitted(hidden_layer_sizes=(5,))
    estimator.coefs_ = [estimator.coefs_[0][:, :2], estimator.coefs_[1][:2]]
    estimator.intercepts_ = [estimator.intercepts_[0][:2], estimator.intercepts_[1]]
    other = reloaded(estimator.set_params(hidden_layer_sizes=(2,)), tmp_path / "model")
    np.testing.assert_array_equal(other.predict(X), estimator.predict(X))
    for each in (other, estimator):
        with pytest.raises(ValueError, match="have 19 numbers, but the moments"):
            each.partial_fit(X, y)


# ------------------------------------------------------------ atomic, and paths


@pytest.mark.parametrize("where", ["write", "fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_else(where, tmp_path, monkeypatch):
    """In the middle of it, when it is brought to the disk, or when it takes its place."""
    path = tmp_path / "model"
    fitted().save(path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("no")

    if where == "write":
        write = model_io.whole_file

        @contextmanager
        def cut_off(path):
            with write(path) as file:
                yield Mock(write=lambda content: file.write(content[:9]) and fail())

        monkeypatch.setattr(model_io, "whole_file", cut_off)
    else:
        monkeypatch.setattr(os, where, fail)
    with pytest.raises(OSError, match="no"):
        fitted(max_iter=5).save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model"]


def test_a_new_file_takes_the_place_of_the_old_one(tmp_path):
    """In one step: who has the old one open reads it on; a link stays one."""
    path, link = tmp_path / "model", tmp_path / "link"
    path.write_bytes(b"old")
    with open(path, "rb") as old:
        if sys.platform != "win32":
            link.symlink_to(path)
            fitted().save(link)
            assert link.is_symlink()
            assert old.read() == b"old"
    fitted().save(str(path))
    MLPClassifier.load(os.fspath(path))


def test_paths_that_are_none_are_os_errors(tmp_path):
    estimator = MLPClassifier()
    for folder in (tmp_path, tmp_path / "sub" / ""):
        with pytest.raises(IsADirectoryError):
            estimator.save(os.path.join(folder, "") if folder != tmp_path else folder)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        estimator.save(tmp_path / "missing" / "model")
    with pytest.raises(FileNotFoundError):
        MLPClassifier.load(tmp_path / "model")
    with pytest.raises(IsADirectoryError if sys.platform != "win32" else OSError):
        MLPClassifier.load(tmp_path)
    for call in (estimator.save, MLPClassifier.load):
        with pytest.raises(
            TypeError, match=r"^expected str, bytes or os\.PathLike object, not int"
        ):
            call(3)
    assert not os.listdir(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="has no FIFOs, and links are for few")
def test_what_is_no_regular_file_is_not_replaced(tmp_path):
    fifo, loop, device = tmp_path / "fifo", tmp_path / "loop", tmp_path / "device"
    os.mkfifo(fifo)
    device.symlink_to(os.devnull)
    loop.symlink_to(loop)
    for path in (fifo, device):
        with pytest.raises(OSError, match="Not a regular file") as caught:
            MLPClassifier().save(path)
        assert caught.value.errno == errno.EINVAL
    with pytest.raises(OSError, match="symbolic links"):
        MLPClassifier().save(loop)
    assert fifo.is_fifo()
    assert loop.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["device", "fifo", "loop"]


@pytest.mark.skipif(sys.platform == "win32", reason="has no such permissions")
def test_permissions_are_those_of_the_old_file(tmp_path, monkeypatch):
    """What is written meanwhile never has more; a new file has what the umask leaves."""
    path, seen, sync = tmp_path / "model", [], os.fsync
    create = os.open
    monkeypatch.setattr(os, "fsync", lambda file: seen.append(os.fstat(file).st_mode) or sync(file))

    def created(*given, **named):
        file = create(*given, **named)
        seen.append(os.fstat(file).st_mode)
        return file

    monkeypatch.setattr(os, "open", created)
    (tmp_path / "other").touch()
    MLPClassifier().save(path)
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
    for mode in (0o600, 0o640, 0o444):
        path.chmod(mode)
        seen.clear()
        MLPClassifier().save(path)
        assert path.stat().st_mode & 0o777 == mode
        assert [each & 0o777 for each in seen] == [0o600, mode]


def test_any_name_that_a_file_may_have(tmp_path):
    for name in ("n" * 240, "\u00e9\u732b"):
        path = os.fsencode(tmp_path / name)
        MLPClassifier(alpha=0.5).save(path)
        assert MLPClassifier.load(path).alpha == 0.5
