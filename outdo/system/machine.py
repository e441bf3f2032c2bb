"""What this machine is and how to get the most of it: device, memory allocation, bf16, measured GEMM peak and bandwidth."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable

import torch

CPU = torch.device("cpu")

UPDATE_UTILISATION, DECODE_UTILISATION = 0.4, 0.25  # shares of the matrix-product peak that estimates assume
_PATIENCE_S = 0.3  # for one measurement
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


def compute_dtype(device: torch.device = CPU) -> torch.dtype:
    """bf16 where the device multiplies it in hardware, float32 elsewhere."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() and _has_bf16_units() else torch.float32


def _has_bf16_units() -> bool:
    capability = torch.cpu.get_capabilities()
    return bool(capability.get("avx512_bf16") or capability.get("amx_bf16") or capability.get("bf16"))


def gemm_peak_flops(dtype: torch.dtype, repeats: int = 10, device: torch.device = CPU) -> float:
    """FLOP/s of a square matrix product on the device now, best of `repeats`: the ceiling for everything else."""
    size = 8192 if device.type != "cpu" else 1024 if dtype == torch.float32 or compute_dtype(device) == dtype else 256
    a = torch.randn(size, size, device=device).to(dtype)
    return 2 * size**3 / _fastest(lambda: torch.mm(a, a), repeats, device)


def copy_bandwidth(device: torch.device = CPU, repeats: int = 3) -> float:
    """Bytes/s read and written by a copy on the device now, best of `repeats`, of more than its caches hold."""
    source = torch.ones(1 << (26 if device.type == "cpu" else 30), dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return 2 * source.nbytes / _fastest(lambda: target.copy_(source), repeats, device)


def _fastest(work: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Seconds. Ends early on slow work (bf16 without hardware for it takes seconds for one product)."""
    best, begun = float("inf"), time.perf_counter()
    for _ in range(repeats):
        if time.perf_counter() - begun > _PATIENCE_S:
            break
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # the clock starts behind the time before's
        best = min(best, time.perf_counter() - start)
    return best


def memory_bytes(device: torch.device = CPU) -> int:
    """What this process may fill: all of the machine's memory, or what no other process holds of the card's."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) + torch.cuda.memory_reserved(device)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def round_rows(n: int) -> int:
    """The next of a few row counts: exact to 16, multiples of 4 to 64, multiples of 64 beyond.

    oneDNN generates code for every new shape of a product, milliseconds each: batches that shrink by a row at a time would
    spend more on that than on arithmetic.
    """
    step = 1 if n <= 16 else 4 if n <= 64 else 64
    return -(-n // step) * step
