"""Decoding on a GPU: the step of one token for each row is recorded as a CUDA graph, once for each shape, and then replayed.

A step is hundreds of kernels of a few microseconds, and launching them from Python takes longer than running them. A graph
wants the same shapes and the same memory every time: rows and keys looked at are rounded up to a few sizes, new weights are
written over the old ones, and the engine keeps the cache between calls. The eager step is the slow twin (tests/test_cuda.py).

Shapes: R rows (active slots), D model width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_WARM_UPS = 2  # libraries set themselves up in their first calls, which must not be recorded
_SEEN_TOKENS = 128

Step = Callable[[Tensor, Tensor], Tensor]  # tokens [R, 1], how many tokens each slot holds [R] -> hidden states [R, D]


def round_rows(n: int) -> int:
    """The next of few row counts: powers of two to 64, multiples of 64 beyond."""
    return 1 << (n - 1).bit_length() if n <= 64 else -(-n // 64) * 64


def round_seen(tokens: int) -> int:
    """The next of few numbers of keys."""
    return -(-tokens // _SEEN_TOKENS) * _SEEN_TOKENS


class Graphs:
    """The recorded steps of one cache and one set of compute weights."""

    def __init__(self) -> None:
        self._recorded: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}
        self._pool = torch.cuda.graph_pool_handle()  # they run one after the other and can share their memory

    def clear(self) -> None:
        """Forget what was recorded: the cache has moved."""
        self._recorded.clear()

    def run(self, step: Step, inputs_2R: Tensor, seen: int, device: torch.device) -> Tensor:
        """step(tokens, starts), of which inputs_2R holds the one and the other, on the CPU -> hidden states [R, D].

        seen: how many keys step looks at. The result lies where the next run of this shape writes its own.
        """
        shape = (inputs_2R.shape[1], seen)
        if shape not in self._recorded:
            self._recorded[shape] = self._record(step, inputs_2R.to(device))
        graph, inputs, hidden = self._recorded[shape]
        inputs.copy_(inputs_2R)
        graph.replay()
        return hidden

    def _record(self, step: Step, inputs: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        """A step may be done again: it writes the same to the same places."""
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UPS):
                step(inputs[0, :, None], inputs[1])
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            hidden = step(inputs[0, :, None], inputs[1])
        return graph, inputs, hidden
