"""Specs are frozen, hashable records that judge themselves and know their shapes."""

import pickle
from dataclasses import FrozenInstanceError, replace

import pytest

from hotloop import spec


def network(**changes):
    fields = {
        "in_shape": (4,),
        "layers": (spec.Dense(5, "relu"), spec.Dense(3)),
        "loss": spec.LOSSES["log_loss"],
    }
    return spec.Network(**{**fields, **changes})


def test_records_are_frozen_hashable_and_equal_by_value():
    """A network is a value: usable as a key, unchangeable, picklable, small."""
    one, two = network(), network()
    assert one == two
    assert len({one, two}) == 1
    assert pickle.loads(pickle.dumps(one)) == one
    assert len(pickle.dumps(one)) < 1000
    with pytest.raises(FrozenInstanceError):
        one.loss = None


def test_shapes_follow_from_the_input_shape():
    """A layer says the shape of its output and of its parameters."""
    layer = spec.Dense(5, "relu")
    assert layer.out_shape((4,)) == (5,)
    assert layer.param_shapes((4,)) == {"weight": (4, 5), "bias": (5,)}
    assert network().n_outputs == 3


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: spec.Dense(0), "units"),
        (lambda: spec.Dense(3, "swish"), "activation"),
        (lambda: network(layers=()), "layer"),
        (lambda: network(layers=(spec.Dense(3, "relu"),)), "output"),
    ],
)
def test_a_wrong_record_cannot_be_made(make, said):
    """The message names what is wrong."""
    with pytest.raises(ValueError, match=said):
        make()


def test_every_loss_comes_with_its_output_activation():
    """A pair that no kernel has the derivative of cannot be made; constants may be any."""
    for row in spec.LOSSES.values():
        assert network(loss=replace(row, parameters=(3.0,))).loss.output_activation in (
            *("softmax", "logistic", "identity", "exp", "ordered", "softmaxes"),
        )
        with pytest.raises(ValueError, match="pairs"):
            network(loss=replace(row, output_activation="tanh"))
    with pytest.raises(TypeError):
        spec.LOSSES["squared_error"] = None
