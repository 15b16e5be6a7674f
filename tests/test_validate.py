"""Validation: arrays that are fit for the kernels are not copied, others are made so."""

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.datasets import load_iris

import hotloop
from hotloop import validate

X, y = load_iris(return_X_y=True)


def judged(X, y=y, **how):
    how = {"reset": True, "precision": "auto", "y_numeric": True, **how}
    return validate.training_data(hotloop.MLPRegressor(), X, y, how.pop("w", None), **how)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_contiguous_array_is_not_copied(dtype):
    """Nor is a CSR matrix of that dtype; read-only or not."""
    dense = np.ascontiguousarray(X, dtype=dtype)
    dense.flags.writeable = False
    assert np.shares_memory(judged(dense).streams(dtype)["X"], dense)
    sparse = sp.csr_matrix(dense)
    assert np.shares_memory(judged(sparse).streams(dtype)["X"].data, sparse.data)


@pytest.mark.parametrize(
    "given",
    [
        np.asfortranarray(X),
        X[:, ::-1],
        X.astype(np.float16),
        X.astype(np.int64),
        X.astype(">f8"),
        X.tolist(),
    ],
    ids=lambda a: type(a).__name__ + str(getattr(a, "dtype", "")),
)
def test_anything_else_becomes_a_contiguous_float64_array(given):
    """Native byte order, row-major."""
    stream = judged(given).streams(np.float64)["X"]
    assert type(stream) is np.ndarray
    assert stream.flags.c_contiguous
    assert stream.flags.aligned
    assert stream.dtype == np.float64
    assert stream.dtype.isnative
    np.testing.assert_array_equal(stream, np.asarray(given, dtype=np.float64))


def test_weights_become_float64():
    """A single number stands for n of them, integers are taken."""
    assert judged(X, w=np.arange(150)).streams(np.float32)["sample_weight"].dtype == np.float64
    np.testing.assert_array_equal(judged(X, w=2).sample_weight, np.full(150, 2.0))


def test_judging_does_not_touch_the_estimator():
    """The estimator is read for its name and features, never written to."""
    estimator = hotloop.MLPRegressor()
    before = dict(vars(estimator))
    validate.training_data(estimator, X, y, None, reset=True, precision="auto", y_numeric=True)
    assert vars(estimator) == before


def test_hidden_layer_sizes_have_one_dimension_and_messages_an_end():
    """As a crafted file may have them: 2**20 rows of nothing."""
    for value in (np.zeros((2**20, 0), int), np.array(3), np.ones((2, 2), int)):
        with pytest.raises(ValueError, match="must be an integer or have one dimension"):
            validate.hidden_layer_sizes(value)
    for value in ([0.5] * 10**5, [-1] * 10**5):
        with pytest.raises(ValueError, match="hidden_layer_sizes must be") as caught:
            validate.hidden_layer_sizes(value)
        assert len(str(caught.value)) < 300
    assert validate.hidden_layer_sizes(np.array([3, 4])) == (3, 4)
