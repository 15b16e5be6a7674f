"""What a CUDA device does with an array of the user, apart from training on it.

Kernels only: the simulator swaps the name ``cuda`` in this file while one of them runs.
"""

from numba import config, cuda

#: Blocks, and threads of each, whose threads share the elements.
BLOCKS, THREADS = (2, 2) if config.ENABLE_CUDASIM else (512, 256)


@cuda.jit
def extremes(values, lows, highs):
    """The smallest and the largest that each thread has seen, NaN if it saw one; of a vector of one
    element at least.
    """
    low = high = values[0]
    for k in range(cuda.grid(1), values.size, cuda.gridsize(1)):
        value = values[k]
        if value < low or value != value:
            low = value
        if value > high or value != value:
            high = value
    lows[cuda.grid(1)] = low
    highs[cuda.grid(1)] = high


@cuda.jit
def convert(values, target):
    """A vector to one of another dtype."""
    for k in range(cuda.grid(1), values.size, cuda.gridsize(1)):
        target[k] = values[k]


@cuda.jit
def gather(matrix, rows, target):
    """Some rows of a matrix, one after the other."""
    width = matrix.shape[1]
    for k in range(cuda.grid(1), rows.size * width, cuda.gridsize(1)):
        target[k] = matrix[rows[k // width], k % width]
