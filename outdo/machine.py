"""What this machine is and how to get the most of it: threads, memory allocation, bf16, the measured GEMM peak."""

from __future__ import annotations

import ctypes
import sys
import time

import torch

UPDATE_UTILISATION, DECODE_UTILISATION = 0.3, 0.22  # shares of the matrix-product peak that estimates assume
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """Tell glibc to reuse large blocks instead of returning them to the kernel.

    Otherwise every activation of a few MB is mapped, zeroed page by page and unmapped again in each step: 16 % of a
    training step of a small model. Does nothing where the C library is another one.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def compute_dtype() -> torch.dtype:
    """bf16 where the processor multiplies it in hardware, float32 elsewhere."""
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() and _has_bf16_units() else torch.float32


def _has_bf16_units() -> bool:
    capability = torch.cpu.get_capabilities()
    return bool(capability.get("avx512_bf16") or capability.get("amx_bf16") or capability.get("bf16"))


def gemm_peak_flops(dtype: torch.dtype, size: int = 1024, repeats: int = 10) -> float:
    """FLOP/s of a square matrix product on this machine now, best of `repeats`: the ceiling for everything else."""
    a = torch.randn(size, size).to(dtype)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(a, a)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def round_rows(n: int) -> int:
    """The next of a few row counts: exact to 16, multiples of 4 to 64, multiples of 64 beyond.

    oneDNN generates code for every new shape of a product, milliseconds each: batches that shrink by a row at a time would
    spend more on that than on arithmetic.
    """
    step = 1 if n <= 16 else 4 if n <= 64 else 64
    return -(-n // step) * step
