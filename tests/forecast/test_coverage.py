"""Bands on synthetic curves of seven kinds, forecast from their first half: benchmarks/forecast.py.

Run: .venv/bin/python -m pytest tests/forecast/test_coverage.py   (about 15 s on one core)
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from outdo.forecast.skill import skill


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("forecast_benchmark", Path(__file__).parents[2] / "benchmarks" / "forecast.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_200_curves(benchmark: ModuleType, seed: int) -> None:
    found = benchmark.measure(200, seed)
    s = skill([record for records in found.values() for record in records])
    assert 0.90 <= s.coverage["95"][0] <= 0.99
    assert s.skill[1] > -0.05


def test_a_few_curves(benchmark: ModuleType) -> None:
    found = benchmark.measure(42, 3)
    assert skill([record for records in found.values() for record in records]).coverage["95"][0] >= 0.85
