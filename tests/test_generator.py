"""The counter-based generator: published vectors, and the same bits from all who compute it.

Run once per instruction set with HOTLOOP_ISA set. The functions that numba compiles for graphics
cards run in its simulator of one.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from itertools import pairwise, product

import numpy as np
import pytest
from hotloop.kernels import engine, philox
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from hotloop import backends

#: Random123's tests/kat_vectors, philox4x32 with 10 rounds: counter, key, words.
KNOWN_ANSWERS = [
    "00000000 00000000 00000000 00000000  00000000 00000000  6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    "ffffffff ffffffff ffffffff ffffffff  ffffffff ffffffff  408f276d 41c83b0e a20bc7c6 6d5451fd",
    "243f6a88 85a308d3 13198a2e 03707344  a4093822 299f31d0  d16cfe09 94fdcceb 5001e420 24126ea1",
]
KNOWN_ANSWERS = [[int(word, 16) for word in row.split()] for row in KNOWN_ANSWERS]

needs_numba = pytest.mark.skipif(find_spec("numba") is None, reason="numba is not installed")
#: Who draws, in this process.
DRAWERS = ["compiled", pytest.param("numba", marks=needs_numba), "plain"]
every_drawer = pytest.mark.parametrize("drawer", DRAWERS)

DTYPES = (np.uint32, np.float32, np.float64)
OF_A_WORD = {
    np.uint32: np.uint32,
    np.float32: philox.uniform32,
    np.float64: philox.uniform64,
}


def draw(drawer, place, shape, dtype=np.uint32):
    """Random numbers of a shape from (seed, step, op, row, column) on."""
    out = np.full(shape, 77, dtype)
    if drawer == "compiled":
        engine.draw(*place, out)
    elif drawer == "numba":
        sys.modules[backends.engine_of("numba").__module__].draw(*place, out)
    else:  # the source of both numba's and the graphics card's functions, as it stands
        seed, step, op, row, column = place
        for r, i in np.ndindex(shape):
            words = philox.block(seed, step % 2**32, op, row + r, (column + i) // 4)
            out[r, i] = OF_A_WORD[dtype](words[(column + i) % 4])
    return out


def place_of(counter, key):
    """Where the words of a counter and a key are."""
    column_block, row, op, step = counter
    return key[0] + 2**32 * key[1], step, op, row, 4 * column_block


@every_drawer
@pytest.mark.parametrize("answer", KNOWN_ANSWERS, ids=["zeros", "ones", "pi"])
def test_published_vectors(answer, drawer):
    got = draw(drawer, place_of(answer[:4], answer[4:6]), (1, 4))
    assert got.tolist() == [answer[6:]]


@pytest.mark.parametrize("answer", KNOWN_ANSWERS, ids=["zeros", "ones", "pi"])
def test_the_published_vectors_tell_a_wrong_generator(answer):
    """The oracle has them; with a round fewer or the words of the key swapped it has not."""
    counter, key, words = answer[:4], answer[4:6], tuple(answer[6:])
    assert oracle.philox(counter, key) == words
    assert oracle.philox(counter, key, rounds=9) != words
    if key[0] != key[1]:
        assert oracle.philox(counter, key[::-1]) != words


@every_drawer
def test_every_width_and_first_column(drawer):
    """Whole vectors and parts of one, from every column of a block; nothing beyond is written."""
    rng = np.random.default_rng(0)
    for n in range(1, 68):
        seed, (step, op, row) = (
            int(rng.integers(2**64, dtype="u8")),
            rng.integers(2**32 - 2, size=3),
        )
        place = seed, int(step), int(op), int(row), int(rng.integers(2**34 - 100))
        np.testing.assert_array_equal(
            draw(drawer, place, (2, n)), oracle.random_words(place, (2, n))
        )


words32 = st.integers(0, 2**32 - 1)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**64 - 1),
    step=st.integers(0, 2**33),
    op=words32,
    row=st.integers(0, 2**32 - 3),
    column=st.integers(0, 2**34 - 67),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 67)),
)
def test_all_have_the_same_bits(seed, step, op, row, column, shape):
    """At any place and of any shape, as words and as numbers of both types."""
    place = seed, step, op, row, column
    expected = oracle.random_words(place, shape)
    for drawer, dtype in product(("compiled", "numba"), DTYPES):
        if drawer == "compiled" or find_spec("numba"):
            got = draw(drawer, place, shape, dtype)
            assert got.dtype == dtype
            if dtype == np.float32:  # by a division in float64, which is exact
                np.testing.assert_array_equal(got, (expected >> 8) / 2**24)
            else:
                np.testing.assert_array_equal(got, expected / (1 if dtype == np.uint32 else 2**32))


@every_drawer
@pytest.mark.parametrize("dtype", DTYPES)
def test_how_rows_and_columns_are_divided_does_not_show(dtype, drawer):
    """Rows one by one or all at once, columns in pieces of any length."""
    seed, step, op, row, column = 2**63 + 11, 5, 3, 100, 6
    whole = draw(drawer, (seed, step, op, row, column), (7, 301), dtype)
    for cuts in ((0, 1, 2, 3, 20, 84, 85, 149, 301), (0, 128, 256, 301)):
        for r in range(7):
            for begin, end in pairwise(cuts):
                place = seed, step, op, row + r, column + begin
                part = draw(drawer, place, (1, end - begin), dtype)
                np.testing.assert_array_equal(part[0], whole[r, begin:end])


@every_drawer
def test_numbers_are_below_one_in_both_types(drawer):
    """Float32 is float64 with its last bits cut off; the largest word is not rounded up to 1."""
    single, double = (draw(drawer, (1, 2, 3, 4, 0), (4, 500), t) for t in DTYPES[1:])
    assert ((single <= double) & (double < single + 2.0**-24)).all()
    largest, zero = np.uint64(2**32 - 1), np.uint64(0)
    assert philox.uniform32(largest) == 1 - 2.0**-24
    assert philox.uniform64(largest) == 1 - 2.0**-32
    assert philox.uniform32(zero) == philox.uniform64(zero) == 0


def test_steps_count_modulo_two_to_the_32():
    place = 1, 2**32 + 9, 3, 4, 0
    np.testing.assert_array_equal(
        draw("compiled", place, (2, 40)), draw("compiled", (1, 9, 3, 4, 0), (2, 40))
    )


@pytest.mark.parametrize(
    ("place", "shape"),
    [
        ((1, 1, 1, 2**32 - 1, 0), (2, 4)),
        ((1, 1, 1, 0, 2**34 - 3), (1, 4)),
        ((1, 1, 1, -1, 0), (1, 1)),
    ],
)
def test_rows_and_columns_beyond_the_counter_are_refused(place, shape):
    with pytest.raises(ValueError, match="there are no random numbers of row"):
        draw("compiled", place, shape)
    with pytest.raises(OverflowError):
        draw("compiled", (1, 1, 2**32, 0, 0), (1, 1))


def test_arrays_that_cannot_be_filled_are_refused():
    with pytest.raises(TypeError, match="not int32"):
        draw("compiled", (1, 1, 1, 0, 0), (1, 1), np.int32)
    with pytest.raises(ValueError, match="C-contiguous"):
        engine.draw(1, 1, 1, 0, 0, np.empty((4, 4), np.uint32).T[:, :2])
    assert draw("compiled", (1, 1, 1, 0, 0), (0, 4)).size == 0
    assert draw("compiled", (1, 1, 1, 0, 0), (4, 0)).size == 0


@pytest.mark.parametrize("rate", [0, 2.0**-33, 0.1, 0.5, 0.75, 1 - 2.0**-32, 1 - 2.0**-53])
def test_a_rate_of_dropout_is_a_word(rate):
    """The nearest one, so that the rate is right to 2^-33; even the last word may be kept."""
    threshold = philox.threshold(rate)
    assert 0 <= threshold < 2**32
    assert abs(threshold / 2**32 - rate) <= (2.0**-33 if rate < 1 - 2.0**-32 else 2.0**-32)
    dropped = (draw("compiled", (7, 1, 2, 0, 0), (100, 1000)) < threshold).mean()
    assert abs(dropped - rate) <= 5 * np.sqrt(rate * (1 - rate) / 1e5)


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5, float("nan")])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(ValueError, match=r"must be in \[0, 1\)"):
        philox.threshold(rate)


# Statistics: a wrong counter would show here, whatever the words of one block are. All bounds are
# at 5 standard deviations.

SHAPE = (256, 256)
FIELDS = ("seed", "step", "op", "row", "column")


def test_numbers_are_uniform():
    words = draw("compiled", (3, 1, 4, 0, 0), SHAPE)
    n = words.size
    assert abs((words / 2**32).mean() - 0.5) < 5 * np.sqrt(1 / 12 / n)
    for bit in range(32):
        assert abs((words >> bit & 1).mean() - 0.5) < 5 * 0.5 / np.sqrt(n)
    for byte in range(4):
        counts = np.bincount((words >> 8 * byte & 255).ravel(), minlength=256)
        chi_square = ((counts - n / 256) ** 2 / (n / 256)).sum()
        assert abs(chi_square - 255) < 5 * np.sqrt(2 * 255)


@pytest.mark.parametrize("field", FIELDS)
def test_neighbours_are_not_correlated(field):
    """Words of the next seed, step, op, row or column have nothing to do with those of this."""
    place = dict.fromkeys(FIELDS, 10)
    one = draw("compiled", tuple(place.values()), SHAPE)
    other = draw("compiled", tuple({**place, field: 11}.values()), SHAPE)
    n = one.size
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 5 / np.sqrt(n)
    equal_bits = np.unpackbits((one ^ other).view(np.uint8)).mean()
    assert abs(equal_bits - 0.5) < 5 * 0.5 / np.sqrt(32 * n)


# The graphics card.

CUDA_CHILD = """
import sys
import numpy as np
from numba import cuda
from hotloop.kernels import philox

random_block, uniform32, uniform64, _ = philox.compiled(cuda.jit(device=True))

@cuda.jit
def draw(place, words, singles, doubles):
    seed, step, op, row, column = place
    r, k = cuda.grid(2)
    first = int(column) // 4 + k
    four = random_block(seed, step, op, int(row) + r, first)
    for j in range(4):
        i = 4 * first + j - int(column)
        if i >= 0 and i < words.shape[1]:
            words[r, i] = four[j]
            singles[r, i] = uniform32(four[j])
            doubles[r, i] = uniform64(four[j])

given, results = np.load(sys.argv[1]), {}
for k, place in enumerate(given["places"]):
    shape = tuple(given["shapes"][k])
    out = [np.zeros(shape, dtype) for dtype in (np.uint32, np.float32, np.float64)]
    draw[(shape[0], shape[1] // 4 + 2), (1, 1)](place, *out)
    results.update({f"{array.dtype}_{k}": array for array in out})
np.savez(sys.argv[2], **results)
"""


@needs_numba
def test_a_simulated_graphics_card_has_the_same_bits(tmp_path):
    """Published vectors, and places at random: words and numbers of both types."""
    rng = np.random.default_rng(1)
    places = [place_of(answer[:4], answer[4:6]) for answer in KNOWN_ANSWERS]
    shapes = [(1, 4)] * len(places)
    for n in (1, 2, 3, 5, 8, 17, 31, 67):
        seed, limits = rng.integers(2**64, dtype="u8"), (2**32, 2**32, 2**32 - 2, 2**34 - 100)
        places.append((int(seed), *(int(rng.integers(limit)) for limit in limits)))
        shapes.append((2, n))
    np.savez(tmp_path / "given.npz", places=np.array(places, np.uint64), shapes=shapes)
    files = [str(tmp_path / "given.npz"), str(tmp_path / "results.npz")]
    child = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", CUDA_CHILD, *files],
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    results = np.load(files[1])
    for k, (place, shape) in enumerate(zip(places, shapes, strict=True)):
        np.testing.assert_array_equal(results[f"uint32_{k}"], oracle.random_words(place, shape))
        for dtype in DTYPES:
            got = results[f"{np.dtype(dtype)}_{k}"]
            np.testing.assert_array_equal(got, draw("compiled", place, shape, dtype))
    for k, answer in enumerate(KNOWN_ANSWERS):
        assert results[f"uint32_{k}"].tolist() == [answer[6:]]
