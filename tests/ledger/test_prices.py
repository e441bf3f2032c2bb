"""The table of prices: machines found by name, judges' tokens, and what is missing said in one line.

Run: .venv/bin/python -m pytest tests/ledger/test_prices.py
"""

from __future__ import annotations

from pathlib import Path

import pytest

from outdo.errors import UserError
from outdo.ledger import prices
from outdo.types import Asked

OWN = """currency = "EUR"
[machine.box]
price = 0.5
unit = "core-hour"
dated = 2026-01-31
source = "our own bill"
[judge."big"]
price_in = 2.0
price_out = 10.0
"""


def own(tmp_path: Path, text: str = OWN) -> prices.Prices:
    file = tmp_path / "p.toml"
    file.write_text(text, encoding="utf-8")
    return prices.load(file)


def test_the_shipped_table() -> None:
    table = prices.load()
    assert {"cpu-core", "h100", "h200"} <= set(table.machines)
    assert all(m.source.startswith("example: ") and "://" not in m.source for m in table.machines.values())
    assert table.machine(None, None) == "cpu-core"
    assert table.machine(None, "NVIDIA H100 80GB HBM3") == "h100"
    assert table.machine("h200", "NVIDIA H100 80GB HBM3") == "h200", "as the reader says"


def test_hours() -> None:
    table = prices.load()
    cpu, gpu = table.machines["cpu-core"], table.machines["h100"]
    assert cpu.money(1800.0, 4) == pytest.approx(cpu.price * 2), "four cores for half an hour"
    assert gpu.money(1800.0, 16) == pytest.approx(gpu.price / 2), "a device is paid whole"


def test_tokens(tmp_path: Path) -> None:
    table = own(tmp_path)
    assert table.judging(Asked("other", 3e6, 1e6, price_in=0.5, price_out=2.0)) == pytest.approx(3.5), "the judge's own prices"
    assert table.judging(Asked("big", 3e6, 1e6)) == pytest.approx(16.0)
    assert table.judging(Asked("small", 3e6, 1e6, local=True)) == 0.0
    with pytest.raises(UserError, match="the judge's model 'small' has no price; set the judge's price_in and price_out, or add"):
        table.judging(Asked("small", 3e6, 1e6))


@pytest.mark.parametrize(("name", "device", "said"), [
    (None, "NVIDIA RTX A6000", "'NVIDIA RTX A6000' has no price in outdo's own examples, which has cpu-core, a100, h100, h200"),
    ("h10", None, "--machine 'h10' has no price in outdo's own examples; did you mean 'h100'?"),
])  # fmt: skip
def test_machines_without_a_price(name: str | None, device: str | None, said: str) -> None:
    with pytest.raises(UserError) as e:
        prices.load().machine(name, device)
    assert str(e.value).startswith(said) and "--prices FILE" in str(e.value)


@pytest.mark.parametrize(("text", "said"), [
    (OWN.replace("0.5", "-1"), "machine.box.price: Input should be greater than or equal to 0"),
    (OWN.replace("price =", "prize ="), "machine.box.price: Field required"),
    (OWN.replace("dated = 2026-01-31\n", ""), "machine.box.dated: Field required"),
    ("currency", "Expected '='"),
])  # fmt: skip
def test_tables_that_are_none(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as e:
        own(tmp_path, text)
    assert "is no table of prices" in str(e.value) and said in str(e.value)
    with pytest.raises(UserError, match="does not exist; copy outdo's own as a start"):
        prices.load(tmp_path / "none.toml")
