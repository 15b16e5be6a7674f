"""What is in a model file, and what may be in one: nothing that it could hold does any harm."""

import json
import math
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st

import hotloop
from hotloop import MLPClassifier, MLPRegressor, compat, model_io
from state import state_of
from test_model_io import WORDS, X, differing, fitted, reloaded, silu, y

pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning", "ignore:.*came to its end"
)


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
        (("format",), 2, r"was written by hotloop '0\.1\.0', in format 2.* Update hotloop"),
        (("format",), True, "its document has"),
        (("class",), "MLPRegressor", "it holds 'MLPRegressor', and not MLPClassifier"),
        (("parameters", "alpha"), -1, "The 'alpha' parameter of MLPClassifier must be"),
        (
            ("parameters", "beta"),
            1,
            "'beta' is none of the parameters .* hotloop '0.* wrote the file",
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
        (("attributes", "_optimizer", "fields", "more"), 1, "StochasticOptimizer has no 'more'"),
        (("parameters", "solver", "parameters", "more"), 1, "AdamW has no 'more'"),
        (("attributes", "_optimizer", "fields", "step"), "x", "'x' is no 'step' of train.Stoch"),
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


def refused(estimator, path, message):
    """It is not saved; if it is in a file all the same, that is not loaded."""
    with pytest.raises(ValueError, match=message):
        estimator.save(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(estimator), "_require_whole", lambda _: None)
        estimator.save(path)
    with pytest.raises(ValueError, match=message):
        type(estimator).load(path)


@pytest.mark.parametrize("gone", ["intercepts_", "classes_", "norm_means_", "loss_", "coefs_"])
def test_attributes_that_are_missing_are_named(gone, model, tmp_path):
    estimator = MLPClassifier.load(model)
    delattr(estimator, gone)
    refused(estimator, tmp_path / "model", rf"\['{gone}'\] are missing")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes_": np.array(["a", "b"])}, "^.*classes_ are .* does not fit 3 outputs"),
        ({"classes_": np.array([["a", "b", "c"]])}, "classes_ are .* does not fit 3 outputs"),
        ({"classes_": np.array([["a"], ["b"], ["c"]])}, "dtype=.* does not fit 3 outputs"),
        ({"_label_kind": "multilabel-indicator"}, "are 'multilabel-indicator' and False"),
        ({"classes_": [np.arange(3)]}, "classes_ are .* does not fit 3 outputs"),
        ({"_label_kind": "binary"}, "_label_kind and _sparse_labels are 'binary' and False"),
        ({"_label_kind": "x", "out_activation_": "identity"}, "are 'x' and False"),
        ({"_sparse_labels": True}, "_label_kind and _sparse_labels are 'multiclass' and True"),
        ({"norm_means_": [np.zeros(5), np.zeros(3)]}, "norm_means_ must hold one vector"),
        (
            {
                "coefs_": [np.ones((4, 0)), np.ones((0, 4)), np.ones((4, 3))],
                "intercepts_": [np.ones(0), np.ones(4), np.ones(3)],
                **{name: [np.ones(0), np.ones(4)] for name in ("norm_scales_", "norm_means_")},
                "norm_variances_": [np.ones(0), np.ones(4)],
            },
            "coefs_ have the shapes of .*, above 0",
        ),
    ],
)
def test_attributes_that_do_not_agree_are_refused(changes, message, model, tmp_path):
    estimator = MLPClassifier.load(model)
    vars(estimator).update(changes)
    refused(estimator, tmp_path / "model", message)


def test_two_classes_are_no_more(tmp_path):
    estimator = fitted(y=y > 1)
    estimator.classes_ = np.arange(3)
    refused(estimator, tmp_path / "model", "3 classes do not fit 1 output")


def test_no_number_of_json_is_none(model, tmp_path, monkeypatch):
    """NaN and Infinity are neither written nor read."""
    header, document = parts_of(model)
    path = tmp_path / "model"
    path.write_bytes(model.read_bytes())
    document["attributes"]["loss_"] = math.nan
    rewritten(path, header, document)
    with pytest.raises(ValueError, match="NaN is no JSON"):
        MLPClassifier.load(path)
    estimator = MLPClassifier()
    estimator._sklearn_output_config = {"transform": math.nan}
    with pytest.raises(ValueError, match="not JSON compliant"):
        estimator.save(path)


@pytest.mark.parametrize(
    ("dtype", "shape", "kind", "message"),
    [
        ("U8", [0] + [1] * 32, "tensor", r"is said to be in bytes 0 to 0, and not 0 to 0"),
        ("U32", [2, 0], "text", r"text is of shape \(2, 0\)"),
        ("U8", [0], "text", r"text is of shape \(0,\) and uint8"),
        ("I64", [2**22, 0], "tensor", r"its header has .* for the array 'more'"),
        ("U8", [0], "scalar", r"is no scalar"),
        ("U8", [3, 0], "tensor", None),
    ],
)
def test_arrays_of_strange_shapes(dtype, shape, kind, message, tmp_path):
    """What takes no bytes can take much time, or memory."""
    path = tmp_path / "model"
    MLPClassifier(init=[1]).save(path)
    header, document = parts_of(path)
    header["more"] = {"dtype": dtype, "shape": shape, "data_offsets": [0, 0]}
    entry = {"tensor" if kind == "scalar" else kind: "more"}
    document["parameters"]["init"] = [{"scalar": entry} if kind == "scalar" else entry]
    rewritten(path, header, document)
    if message is None:
        assert MLPClassifier.load(path).init[0].shape == tuple(shape)
    else:
        with pytest.raises(ValueError, match=message):
            MLPClassifier.load(path)


def test_headers_have_the_limit_of_the_format(model, tmp_path, monkeypatch):
    estimator, size = MLPClassifier.load(model), int.from_bytes(model.read_bytes()[:8], "little")
    assert size % 8 == 0
    for limit in (size, size - 1):
        monkeypatch.setattr(model_io, "MOST_HEADER", limit)
        if limit == size:
            estimator.save(tmp_path / "model")
            MLPClassifier.load(model)
    with pytest.raises(ValueError, match=f"its header has {size} bytes"):
        MLPClassifier.load(model)
    with pytest.raises(ValueError, match=f"all but arrays takes {size} bytes"):
        estimator.save(tmp_path / "model")


def test_zeros_of_dimensions_and_scalars_are_told_apart(tmp_path):
    values = [np.array(0.5), np.float64(0.5), np.array("ab"), np.str_("ab"), np.zeros((0, 3))]
    other = reloaded(MLPClassifier(init=values), tmp_path / "model")
    assert [*map(type, other.init)] == [*map(type, values)]
    assert state_of(other.init) == state_of(values)


@pytest.mark.parametrize(
    "key", [2**64, -(2**63) - 1, {"tuple": [1]}, {"strings": []}, [], {"dict": []}]
)
def test_keys_that_are_refused(key, tmp_path):
    """Any number of larger integers have one hash, which takes time that is quadratic."""
    path = tmp_path / "model"
    weights = {None: 1.0, "a": 2.0, 2**64 - 1: 3.0, -(2**63): 1, 0.5: 1, np.int64(7): 1, True: 4}
    assert reloaded(MLPClassifier(class_weight=weights), path).class_weight == weights
    header, document = parts_of(path)
    document["parameters"]["class_weight"]["dict"].append([key, 1])
    rewritten(path, header, document)
    with pytest.raises(ValueError, match="is no key of a dict"):
        MLPClassifier.load(path)
    if isinstance(key, int):
        with pytest.raises(TypeError, match="dicts by numbers or strings"):
            MLPClassifier(class_weight={key: 1.0}).save(path)


def test_arrays_are_named_without_what_is_the_users(tmp_path):
    """A lone surrogate in a header is nothing that other readers take."""
    safetensors = pytest.importorskip("safetensors.numpy")
    weights = {"\ud800": np.float64(1), 1: np.float64(2), "1": np.float64(3)}
    assert reloaded(MLPClassifier(class_weight=weights), tmp_path / "m").class_weight == weights
    names = {f"class_weight.{k}.1" for k in range(3)}
    assert {*safetensors.load_file(tmp_path / "m")} == names


def test_a_function_is_only_where_it_was_asked_for(tmp_path):
    path = tmp_path / "model"
    MLPRegressor(activation=silu).save(path)
    header, document = parts_of(path)
    document["parameters"]["activation"] = "relu"
    rewritten(path, header, document)
    with pytest.raises(ValueError, match=r"nothing refers to the functions \['activation'\]"):
        MLPRegressor.load(path, {"activation": silu})
    document["parameters"]["scoring"] = {"function": "activation"}
    rewritten(path, header, document)
    with pytest.raises(ValueError, match=r"{'function': 'activation'} stands for no value"):
        MLPRegressor.load(path, {"activation": silu})


def test_names_of_functions_are_names(tmp_path):
    """A message shows nothing else of a file as code to paste, nor much of it."""
    path = tmp_path / "model"
    strange = Mock(side_effect=silu, __name__="f\x1b[2J()")
    MLPRegressor(activation=[lambda z: z, strange], hidden_layer_sizes=(2, 2)).save(path)
    header, document = parts_of(path)
    assert document["functions"] == {"activation.0": ["<lambda>"], "activation.1": ["function"]}
    for name in ("__import__('os')", "f\x1b[2J", "a b", 3, ["f"]):
        document["functions"] = {"activation": [name]}
        rewritten(path, header, document)
        with pytest.raises(ValueError, match="for names of functions at 'activation'") as caught:
            MLPRegressor.load(path)
        assert "\x1b" not in str(caught.value)
    document["functions"] = {f"a{k}": ["g"] for k in range(20_000)}
    rewritten(path, header, document)
    with pytest.raises(ValueError, match="'a9': g, and 19990 more") as caught:
        MLPRegressor.load(path)
    assert len(str(caught.value)) < 1000
    document["hotloop"], document["format"] = "1\x1b[31m\n", 2
    rewritten(path, header, document)
    with pytest.raises(ValueError, match=r"by hotloop '1\\x1b\[31m\\n', in format"):
        MLPRegressor.load(path)


@pytest.mark.parametrize("functions", ["x", 3, silu, []])
def test_functions_are_a_dict(functions, tmp_path):
    MLPRegressor().save(tmp_path / "model")
    with pytest.raises(TypeError, match=r"^functions must be a dict of functions by place"):
        MLPRegressor.load(tmp_path / "model", functions=functions)


def test_parameters_of_any_size_are_not_kept(tmp_path):
    """Those that passed are remembered by their value, if it is a small one."""
    passed = compat._PASSED.setdefault(MLPClassifier, set())
    passed.clear()
    MLPClassifier((3,) * 64, activation="relu").save(tmp_path / "model")
    assert ("hidden_layer_sizes", tuple, (3,) * 64) in passed
    MLPClassifier((3,) * 65, scoring="accuracy" * 9).save(tmp_path / "model")
    assert all(len(value) <= 64 for _, _, value in passed if isinstance(value, str | tuple))


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
