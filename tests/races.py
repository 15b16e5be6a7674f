"""Runs CUDA kernels thread by thread, in any order, and finds what no barrier puts in order.

numba's simulator lets threads take turns by chance, passes over threads that have left at a
barrier, and knows one block at a grid's. Here there are as many blocks as wanted, and a thread runs
from one barrier to the next before another does. Every access is noted: two threads *race* if they
touch an element between the same barriers and one of them writes.
"""

import sys
import threading
from collections import defaultdict
from types import SimpleNamespace

import numpy as np


class Race(AssertionError):
    """What would be up to chance on a GPU."""


class Watched:
    """An array of which every access of an element is noted; a negative index is none."""

    def __init__(self, grid, name, values, places=None):
        self._grid, self._name, self._values = grid, name, values
        self._places = np.arange(values.size).reshape(values.shape) if places is None else places
        self.dtype, self.size, self.shape = values.dtype, values.size, values.shape

    def __getitem__(self, key):
        found = self._at(key)
        if isinstance(found, np.ndarray):
            return Watched(self._grid, self._name, self._values[key], found)
        self._grid.note((self._name, int(found)), False)
        return self._values[key]

    def __setitem__(self, key, value):
        self._grid.note((self._name, int(self._at(key))), True)
        self._values[key] = value

    def _at(self, key):
        for k in key if isinstance(key, tuple) else (key,):
            start = k.start or 0 if isinstance(k, slice) else k
            if start < 0:
                raise IndexError(f"index {key} of {self._name}")
        return self._places[key]


class Thread(threading.Thread):
    """A thread of a block, which runs when it is told to, up to its next barrier."""

    def __init__(self, grid, block, number, kernel, arguments):
        super().__init__(daemon=True)
        self.grid, self.block, self.number = grid, block, number
        self.kernel, self.arguments = kernel, arguments
        self.waits, self.done, self.error, self.n_shared = None, False, None, 0
        self._may_run, self._has_run = threading.Semaphore(0), threading.Semaphore(0)

    def run(self):
        self._may_run.acquire()
        try:
            if not self.grid.broken:
                self.kernel(*self.arguments)
        except BaseException as error:
            self.error = error
        self.done = True
        self._has_run.release()

    def advance(self):
        """To its next barrier or its end."""
        self.waits = None
        self.grid.current = self
        self._may_run.release()
        self._has_run.acquire()

    def wait_at(self, kind):
        """Stands at a barrier, known by its kind and the lines that led there."""
        lines, frame = [], sys._getframe(2)
        while frame.f_code is not Thread.run.__code__:
            lines.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
            frame = frame.f_back
        self.waits = kind, " < ".join(lines)
        self._has_run.release()
        self._may_run.acquire()
        if self.grid.broken:
            raise SystemExit


class Grid:
    """A launch of some blocks.

    Parameters
    ----------
    blocks, threads : int
        Blocks, and threads of each.
    backwards : bool
        Whether the last ones go first.
    shared_bytes : int
        Shared memory that a launch asks for.
    """

    def __init__(self, blocks, threads, *, backwards=False, shared_bytes=0):
        self.blocks, self.threads, self.backwards = blocks, threads, backwards
        self.current, self.broken = None, False
        self._phases = [0] * blocks
        self._seen = defaultdict(dict)
        self._shared = {}
        self._shared_bytes = shared_bytes
        self.cuda = _Cuda(self)

    def watched(self, name, values):
        """An array that kernels are handed."""
        return Watched(self, name, values)

    def shared_array(self, shape, dtype):
        """A block's array; threads ask for theirs in the same order."""
        me = self.current
        key = me.block, me.n_shared
        me.n_shared += 1
        if key not in self._shared:
            if shape == 0:
                shape = self._shared_bytes // np.dtype(dtype).itemsize
            # What nobody has written must not look like a result.
            values = np.full(shape, np.nan, dtype)
            self._shared[key] = Watched(self, f"shared {key}", values)
        return self._shared[key]

    def note(self, place, writes):
        """An access of the current thread, and whether it races with another."""
        me, seen = self.current, self._seen[place]
        phase = self._phases[me.block]
        for other, (read, wrote) in seen.items():
            if other is me:
                continue
            apart = other.block != me.block
            if (wrote >= 0 and (apart or wrote == phase)) or (
                writes and read >= 0 and (apart or read == phase)
            ):
                raise Race(
                    f"{place}: thread {me.number} of block {me.block} "
                    f"{'writes' if writes else 'reads'} what thread {other.number} of block "
                    f"{other.block} {'wrote' if wrote >= 0 else 'read'} since the last barrier"
                )
        read, wrote = seen.get(me, (-1, -1))
        seen[me] = (read, phase) if writes else (phase, wrote)

    def run(self, kernel, arguments):
        """Runs a kernel to its end, or raises what is wrong with it."""
        all_blocks = [
            [Thread(self, block, k, kernel, arguments) for k in range(self.threads)]
            for block in range(self.blocks)
        ]
        everyone = [thread for block in all_blocks for thread in block]
        for thread in everyone:
            thread.start()
        turn = -1 if self.backwards else 1
        try:
            while not all(thread.done for thread in everyone):
                for block in all_blocks[::turn]:
                    self._advance_block(block[::turn])
                self._meet(everyone)
        finally:
            self.broken = True
            for thread in everyone:
                while not thread.done:
                    thread.advance()
                thread.join()

    def _advance_block(self, block):
        """Up to the grid's barrier, or the end."""
        while True:
            for thread in block:
                if not thread.done:
                    thread.advance()
                if thread.error is not None:
                    raise thread.error
            waits = {thread.waits for thread in block}
            if len(waits) > 1 or any(thread.done for thread in block) != (waits == {None}):
                raise Race(f"threads of a block wait at {waits}")
            if waits == {None} or next(iter(waits))[0] == "grid":
                return
            self._phases[block[0].block] += 1

    def _meet(self, everyone):
        waits = {thread.waits for thread in everyone}
        if len(waits) > 1:
            raise Race(f"blocks wait at {waits}")
        if waits != {None}:
            self._seen.clear()


class _Cuda:
    """What kernels know as ``cuda``."""

    def __init__(self, grid):
        self._grid = grid
        self.gridDim = SimpleNamespace(x=grid.blocks)
        self.shared = SimpleNamespace(array=grid.shared_array)
        self.local = SimpleNamespace(array=lambda shape, dtype: np.empty(shape, dtype))
        group = SimpleNamespace(sync=lambda: grid.current.wait_at("grid"))
        self.cg = SimpleNamespace(this_grid=lambda: group)

    @property
    def threadIdx(self):
        return SimpleNamespace(x=self._grid.current.number)

    @property
    def blockIdx(self):
        return SimpleNamespace(x=self._grid.current.block)

    def syncthreads(self):
        self._grid.current.wait_at("block")

    @staticmethod
    def fma(a, b, c):
        return a * b + c


def launcher(numba_cuda, cuda_ops, *, backwards=False, blocks=3):
    """What stands in for `numba_cuda.launch`, and runs the same kernels by a :class:`Grid`."""

    def launch(table, memory, data, jobs, arrays, sizes):
        size = sizes[1] * memory.store.dtype.itemsize
        tables = numba_cuda._handed(table.tables)
        memory, data = numba_cuda._handed(memory), numba_cuda._handed(data)
        records, orders, reports = (array._ary for array in arrays)

        def run(kernel, jobs, blocks, shared_bytes):
            grid = Grid(blocks, cuda_ops.THREADS, backwards=backwards, shared_bytes=shared_bytes)
            watched = [
                type(these)(*map(grid.watched, these._fields, these)) for these in (memory, data)
            ]
            report = grid.watched("reports", reports)
            before, cuda_ops.cuda = cuda_ops.cuda, grid.cuda
            try:
                grid.run(kernel.fn, (tables, *watched, jobs, records, orders, report))
            finally:
                cuda_ops.cuda = before

        run_blocks, run_grid = table.kernels
        if numba_cuda.in_blocks(table.host, len(jobs), sizes[0], size):
            run(run_blocks, jobs, len(jobs), size)
        else:
            for k in range(len(jobs)):
                run(run_grid, jobs[k : k + 1], blocks, 0)

    return launch
