"""Arrays of other libraries, as far as that needs no CUDA: recognition, refusals, DLPack, tensors
on the host. Arrays that lie on a device are in test_cuda.py.
"""

import weakref

import numpy as np
import pytest
import sklearn
from hotloop.kernels import dlpack

from hotloop import MLPClassifier, MLPRegressor, fit_many, validate
from state import state_of

X = np.linspace(-1, 1, 24).reshape(12, 2)
y = np.arange(12) % 3


class ByInterface:
    """Says by ``__cuda_array_interface__`` that it lies on a device."""

    def __init__(self, array, interface=None):
        self.array = array
        self.__cuda_array_interface__ = interface or array.__array_interface__


class ByDLPack:
    """Says so by DLPack, unless its device is another."""

    def __init__(self, array, device=(2, 0)):
        self.array, self.device = array, device

    def __dlpack__(self, stream=None):
        return self.array.__dlpack__()

    def __dlpack_device__(self):
        return self.device


both_ways = pytest.mark.parametrize("way", [ByInterface, ByDLPack])


@both_ways
@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_an_array_of_a_device_is_refused_where_another_computes(way, device):
    """In fit, by whichever argument, and in predictions; the estimator stays as it was."""
    model = MLPClassifier(3, max_iter=300, tol=1, random_state=0, device=device)
    model.fit(X, y)
    before = state_of(vars(model))
    weight = np.ones(12)
    for k, name in enumerate(("X", "y", "sample_weight")):
        arrays = [X, y, weight]
        arrays[k] = way(arrays[k])
        match = rf"{name} lies on a CUDA device \(.*\.{way.__name__}\), but device is '{device}'"
        with pytest.raises(ValueError, match=rf"{match}.*device='cuda'.*{name}\.cpu\(\)"):
            model.fit(*arrays)
        with pytest.raises(ValueError, match=match):
            fit_many([model], *arrays, folds=[np.arange(9)])
    for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
        with pytest.raises(ValueError, match=r"X lies on a CUDA device.*copy it to the host"):
            getattr(model, method)(way(X))
    assert state_of(vars(model)) == before


def test_what_lies_on_a_device_is_known_by_what_it_says():
    class Evasive:
        def __dlpack_device__(self):
            raise BufferError("nothing to say")

    managed_by_cuda = ByDLPack(X, (13, 0))
    for array in (ByInterface(X), ByDLPack(X), managed_by_cuda):
        assert validate.lies_on_device(array)
    pinned, of_another_maker = ByDLPack(X, (3, 0)), ByDLPack(X, (10, 0))
    for array in (X, X.tolist(), None, "X", 1.0, pinned, of_another_maker, Evasive()):
        assert not validate.lies_on_device(array)


@pytest.mark.parametrize("dtype", ["?", "i1", "u2", "i4", "i8", "f2", "f4", "f8", "c16"])
def test_dlpack_tells_what_the_array_interface_tells(dtype):
    """Of contiguous arrays, views with steps and an offset, no dimension and no element."""
    whole = np.zeros((4, 6), dtype)
    if dtype == "?" and np.lib.NumpyVersion(np.__version__) < "1.25.0":
        pytest.skip("NumPy gives no truth values away by DLPack before 1.25")
    for array in (whole, whole.T, whole[1:, ::2], whole[:, 3], whole[::-1], whole[0, 0, ...]):
        found, expected = dlpack.interface_of(array.__dlpack__()), array.__array_interface__
        assert found["shape"] == expected["shape"]
        assert found["data"][0] == expected["data"][0]
        assert np.dtype(found["typestr"]) == array.dtype
        assert found["strides"] in (None, array.strides)
        assert found["strides"] or array.flags.c_contiguous
    assert dlpack.interface_of(whole[:0].__dlpack__())["shape"] == (0, 6)


def test_types_that_numpy_has_not_are_bytes():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: it has bfloat16")
    capsule = torch.zeros(3, dtype=torch.bfloat16).__dlpack__()
    assert dlpack.interface_of(capsule)["typestr"] == "|V2"


def test_a_capsule_is_looked_into_and_keeps_the_memory():
    array = np.arange(3.0)
    alive, capsule = weakref.ref(array), array.__dlpack__()
    del array
    for _ in range(2):
        assert dlpack.interface_of(capsule)["shape"] == (3,)
    assert alive() is not None
    del capsule
    assert alive() is None


def test_a_capsule_that_was_consumed_or_is_none_is_refused():
    capsule = X.__dlpack__()

    class Spent(ByDLPack):
        def __dlpack__(self, **how):
            return capsule

    np.from_dlpack(Spent(X, (1, 0)))
    for wrong in (capsule, X):
        with pytest.raises(ValueError, match="PyCapsule"):
            dlpack.interface_of(wrong)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_tensors_on_the_host_are_taken_and_come_back(monkeypatch):
    """As what they hold; under array_api_dispatch numbers come back as tensors, labels that are
    strings as NumPy's.
    """
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: no tensors to hand in")
    how = {"hidden_layer_sizes": 3, "max_iter": 3, "random_state": 0}
    expected = MLPClassifier(**how).fit(X, y)
    tensors = torch.tensor(X), torch.tensor(y)
    model = MLPClassifier(**how).fit(*tensors)
    assert type(model.predict(tensors[0])) is np.ndarray
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    with sklearn.config_context(array_api_dispatch=True):
        model = MLPClassifier(**how).fit(*tensors)
        for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
            found = getattr(model, method)(tensors[0])
            assert isinstance(found, torch.Tensor)
            np.testing.assert_array_equal(found, getattr(expected, method)(X))
            assert type(getattr(model, method)(X)) is np.ndarray
            assert type(getattr(model, method)(X.tolist())) is np.ndarray
        assert isinstance(MLPRegressor(**how).fit(*tensors).predict(tensors[0]), torch.Tensor)
        named = MLPClassifier(**how).fit(X, np.array(["a", "b", "c"])[y])
        assert type(named.predict(tensors[0])) is np.ndarray
        assert isinstance(named.predict_proba(tensors[0]), torch.Tensor)
    assert state_of(model.coefs_) == state_of(expected.coefs_)
