"""A model file gives the estimator back bit for bit; whatever else is in one, it does no harm."""

import json
import os
import pickle
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import scipy.sparse
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
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
        "hidden_layer_sizes": range(1, 3),
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
    estimator = fitted()
    estimator.loss_ = "small"
    with pytest.raises(TypeError, match=r"^loss_ is 'small', and a model file has float there"):
        estimator.save(tmp_path / "model")
    assert not os.listdir(tmp_path)


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
    with pytest.raises(IsADirectoryError if sys.platform != "win32" else OSError):
        estimator.save(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        estimator.save(tmp_path / "missing" / "model")
    with pytest.raises(FileNotFoundError):
        MLPClassifier.load(tmp_path / "model")
    with pytest.raises(IsADirectoryError if sys.platform != "win32" else OSError):
        MLPClassifier.load(tmp_path)
    for call in (estimator.save, MLPClassifier.load):
        with pytest.raises((TypeError, ValueError)):
            call(3)
    assert not os.listdir(tmp_path)


# ------------------------------------------------------------ the format


def test_other_readers_of_the_format_read_the_arrays(tmp_path):
    """All of them, aligned; and what such a library writes of them loads."""
    safetensors = pytest.importorskip("safetensors.numpy")
    estimator, path = fitted(y=WORDS), tmp_path / "model.safetensors"
    estimator.save(path)
    arrays = safetensors.load_file(path)
    for name in ("coefs_", "intercepts_"):
        for k, array in enumerate(getattr(estimator, name)):
            np.testing.assert_array_equal(arrays[f"{name}.{k}"], array)
    header, document = parts_of(path)
    for entry in header.values():
        assert entry["data_offsets"][0] % model_io.DTYPES[entry["dtype"]].itemsize == 0
    safetensors.save_file(arrays, path, metadata={"hotloop": json.dumps(document)})
    assert not differing(MLPClassifier.load(path), estimator)
    safetensors.save_file(arrays, path)
    with pytest.raises(ValueError, match="no model of hotloop"):
        MLPClassifier.load(path)


def parts_of(path):
    """The header of a file, less its metadata, and the document."""
    data = Path(path).read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return header, json.loads(header.pop("__metadata__")["hotloop"])


def rewritten(path, header, document, tail=b""):
    """A file with another header or document around the same arrays."""
    data = Path(path).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = {"__metadata__": {"hotloop": json.dumps(document)}, **header}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[start:] + tail)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A file with one of everything."""
    path = tmp_path_factory.mktemp("model") / "model"
    estimator = fitted(
        y=WORDS,
        solver=hotloop.AdamW(),
        learning_rate=hotloop.Warmup(then=hotloop.Cosine()),
        averaging="ema",
        normalization="batch",
        random_state=np.random.RandomState(0),
        class_weight={"ab": 2.0},
        dropout=0.1,
        n_iter_no_change=np.inf,
    )
    estimator.feature_names_in_ = np.array([*"abcd"], dtype=object)
    with sklearn.config_context(enable_metadata_routing=True):
        estimator.set_fit_request(sample_weight=True)
    estimator.set_output(transform="default").save(path)
    return path


def places(value, place=()):
    """All places in a JSON value."""
    yield place
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, entry in items:
        yield from places(entry, (*place, key))


WRONG = [
    *(None, True, -1, 2**70, 0.5, "", "relu", [], [[]], {}, {"a": 1}, {"float": "1"}, {"tuple": 3}),
    *({"tensor": "coefs_.0"}, {"tensor": "nothing"}, {"tensor": []}, {"text": "coefs_.0"}),
    *({"dict": [1]}, {"dict": [[[], 1]]}, {"strings": [1]}, {"strings": ["a"]}, {"float": "nan"}),
    *({"generator": [1, 2, 3, 4]}, {"function": "loss"}, {"object": "os.system", "parameters": {}}),
    *(
        {"object": "AdamW", "parameters": {"beta_1": 2}},
        {"object": "AdamW", "parameters": {"x": 2}},
    ),
    *({"object": "Warmup", "parameters": {"then": {"object": "AdamW", "parameters": {}}}},),
    *(
        {"record": "spec.Adam", "fields": {"rule": "x"}},
        {"record": "subprocess.Popen", "fields": {}},
    ),
    {"record": "train.StochasticOptimizer", "fields": {"slots": {"dict": [[1, 2]]}}},
]


def changed(value, place, entry):
    """A JSON value with another entry at a place."""
    if not place:
        return entry
    value = value.copy()
    value[place[0]] = changed(value[place[0]], place[1:], entry)
    return value


def harmless(path):
    """Loads it and uses it, if it can be loaded; no error but those that are promised."""
    try:
        loaded = MLPClassifier.load(path)
    except (ValueError, OSError):
        return
    for method in (loaded.predict, loaded.predict_proba, loaded.transform):
        with suppress(ValueError):
            method(X.astype(np.float32))
    with suppress(Exception):  # as for a user who sets such a thing; the process lives
        loaded.set_params(max_iter=2).partial_fit(X, WORDS)


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
@settings(max_examples=300)
@given(st.data())
def test_a_document_that_was_tampered_with_is_harmless(model, tmp_path_factory, data):
    """Other JSON anywhere in the header or the document."""
    header, document = parts_of(model)
    path = tmp_path_factory.getbasetemp() / "tampered"
    path.write_bytes(model.read_bytes())
    both = {"header": header, "document": document}
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.sampled_from([p for p in places(both) if len(p) > 1]))
        both = changed(both, place, data.draw(st.sampled_from(WRONG)))
    rewritten(path, both["header"], both["document"])
    harmless(path)


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
@settings(max_examples=300)
@given(st.data())
def test_a_damaged_file_is_harmless(model, tmp_path_factory, data):
    """Cut off, bits turned over, bytes put in or taken out."""
    content = bytearray(model.read_bytes())
    path = tmp_path_factory.getbasetemp() / "damaged"
    start = int.from_bytes(content[:8], "little")
    at = data.draw(st.one_of(st.integers(0, start + 8), st.integers(0, len(content) - 1)))
    how = data.draw(st.sampled_from(["cut", "flip", "put", "take"]))
    if how == "cut":
        del content[at:]
    elif how == "flip":
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    elif how == "put":
        content[at:at] = data.draw(st.binary(min_size=1, max_size=9))
    else:
        del content[at : at + data.draw(st.integers(1, 9))]
    path.write_bytes(content)
    harmless(path)


@settings(max_examples=100)
@given(st.binary(max_size=200))
def test_anything_else_is_no_model(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "anything"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="cannot be loaded"):
        MLPClassifier.load(path)


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": NaN}',
        b"\xff\xfe{}",
        b'{"__metadata__": {"hotloop": "' + b"[" * 100_000 + b'"}}',
        b'{"a": {"dtype": "F64", "shape": [' + b"9999999," * 9999 + b'1], "data_offsets": [0, 8]}}',
        b'{"a": {"dtype": "F64", "shape": [4611686018427387904, 4], "data_offsets": [0, 0]}}',
        b'{"a": {"dtype": "F64", "shape": [0, 99999999999999999999], "data_offsets": [0, 0]}}',
    ],
    ids=lambda text: text[:30].decode(errors="replace"),
)
def test_headers_that_ask_for_too_much_are_refused(header, model, tmp_path):
    """Deep, long, overflowing: at once, and for little memory."""
    document = json.dumps(parts_of(model)[1])
    if b"dtype" in header:
        header = b'{"__metadata__": {"hotloop": %b}, %b' % (
            json.dumps(document).encode(),
            header[1:],
        )
    path = tmp_path / "model"
    for length in (len(header), len(header) + 1, 2**63, 2**64 - 1):
        path.write_bytes(length.to_bytes(8, "little") + header)
        with pytest.raises(ValueError, match="cannot be loaded"):
            MLPClassifier.load(path)


@pytest.mark.parametrize(
    ("place", "entry", "message"),
    [
        (("format",), 2, r"was written by hotloop 0\.1\.0, in format 2.* Update hotloop"),
        (("format",), True, "its document has"),
        (("class",), "MLPRegressor", "it holds 'MLPRegressor', and not MLPClassifier"),
        (("parameters", "alpha"), -1, "The 'alpha' parameter of MLPClassifier must be"),
        (
            ("parameters", "beta"),
            1,
            "'beta' is none of the parameters .* hotloop 0.* wrote the file",
        ),
        (("attributes", "predict"), 1, "'predict' is none of the attributes"),
        (("attributes", "__class__"), 1, "'__class__' is none of the attributes"),
        (("attributes", "loss_"), "x", "loss_ is 'x', which is no float"),
        (("attributes", "t_"), -1, "t_ is -1, which is no int"),
        (("attributes", "t_"), True, "t_ is True, which is no int"),
        (("attributes", "n_features_in_"), 5, "coefs_ have the shapes of"),
        (("attributes", "n_layers_"), 5, "coefs_ have the shapes of"),
        (("attributes", "n_outputs_"), 5, "coefs_ have the shapes of"),
        (("attributes", "out_activation_"), "exponential", "out_activation_ must be one of"),
        (("attributes", "feature_names_in_"), {"strings": ["a"]}, "feature_names_in_ are not 4"),
        (("attributes", "coefs_", 0), {"tensor": "coefs_.1"}, "referred to twice"),
        (("attributes", "coefs_", 0), {"tensor": "intercepts_.0"}, "not there, or is referred to"),
        (("attributes", "classes_"), {"strings": ["a", "b"]}, "nothing refers to the arrays"),
        (("parameters", "solver"), {"object": "Popen", "parameters": {}}, "none of the objects"),
        (("parameters", "solver", "parameters", "epsilon"), -1, "epsilon"),
        (("settings", "fit"), {"groups": True}, "no such setting as 'fit' of"),
        (("settings", "set_output"), {"transform": 3}, "no such setting as 'set_output' of"),
        (("functions", "loss"), ["f"], r"functions={'loss': f}"),
    ],
)
def test_errors_say_what_is_wrong(place, entry, message, model, tmp_path):
    header, document = parts_of(model)
    parent = document
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = entry
    path = tmp_path / "model"
    path.write_bytes(model.read_bytes())
    rewritten(path, header, document)
    with pytest.raises(ValueError, match=message):
        MLPClassifier.load(path)


@pytest.mark.parametrize("gone", ["intercepts_", "classes_", "norm_means_", "loss_", "coefs_"])
def test_attributes_that_are_missing_are_named(gone, model, tmp_path):
    header, document = parts_of(model)
    del document["attributes"][gone]
    path = tmp_path / "model"
    path.write_bytes(model.read_bytes())
    rewritten(path, header, document)
    with pytest.raises(ValueError, match=r"are missing|nothing refers"):
        MLPClassifier.load(path)


def test_parameters_that_a_file_does_not_have_are_at_their_defaults(model, tmp_path):
    """It is older than they are."""
    header, document = parts_of(model)
    del document["parameters"]["tol"]
    path = tmp_path / "model"
    path.write_bytes(model.read_bytes())
    rewritten(path, header, document)
    assert MLPClassifier.load(path).tol == 1e-4


def test_an_array_that_numpy_must_not_see_is_refused(model, tmp_path):
    """Truth values that are neither, code points that are none, a generator's state of nothing."""
    content = model.read_bytes()
    header, _ = parts_of(model)
    start = 8 + int.from_bytes(content[:8], "little")
    for name, message in (("classes_", "code points"), ("random_state.0", "none of MT19937")):
        begin, end = header[name]["data_offsets"]
        byte = b"\xff" if name == "classes_" else b"\0"
        broken = content[: start + begin] + byte * (end - begin) + content[start + end :]
        (tmp_path / "model").write_bytes(broken)
        with pytest.raises(ValueError, match=message):
            MLPClassifier.load(tmp_path / "model")
    path = tmp_path / "truth"
    fitted(y=np.array([False, True])[y % 2]).save(path)
    content = bytearray(path.read_bytes())
    header, _ = parts_of(path)
    begin = 8 + int.from_bytes(content[:8], "little") + header["classes_"]["data_offsets"][0]
    assert bytes(content[begin : begin + 2]) == b"\0\1"
    content[begin + 1] = 2
    path.write_bytes(content)
    with pytest.raises(ValueError, match="others than 0 and 1"):
        MLPClassifier.load(path)


def test_a_generator_beyond_its_end_is_refused(model, tmp_path):
    header, document = parts_of(model)
    (tmp_path / "model").write_bytes(model.read_bytes())
    for at in (-1, 625, 2**40):
        document["parameters"]["random_state"]["generator"][1] = at
        rewritten(tmp_path / "model", header, document)
        with pytest.raises(ValueError, match="none of MT19937"):
            MLPClassifier.load(tmp_path / "model")


def test_arrays_that_share_bytes_are_refused(model, tmp_path):
    """A small file could ask for much memory by them."""
    header, document = parts_of(model)
    name, last = max(header.items(), key=lambda item: item[1]["data_offsets"][1])
    header = {**header, **{f"{name}{k}": last for k in range(100)}}
    (tmp_path / "model").write_bytes(model.read_bytes())
    rewritten(tmp_path / "model", header, document)
    with pytest.raises(ValueError, match=r"is said to be in bytes"):
        MLPClassifier.load(tmp_path / "model")


@pytest.mark.parametrize("tail", [b"\0", b"more"])
def test_bytes_after_the_arrays_are_refused(tail, model, tmp_path):
    path = tmp_path / "model"
    path.write_bytes(model.read_bytes())
    rewritten(path, *parts_of(model), tail)
    with pytest.raises(ValueError, match="its arrays take"):
        MLPClassifier.load(path)
