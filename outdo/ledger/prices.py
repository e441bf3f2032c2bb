"""The table of prices: what an hour of a machine costs, and a token of a judge whose recipe does not say it.

`prices.toml` beside this file holds dated examples. A file of the same form replaces all of it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from outdo.errors import UserError, check, nearest
from outdo.types import Asked

SHIPPED = Path(__file__).with_name("prices.toml")
_HOUR_S = 3600.0
_MILLION = 1e6


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Machine(_Table):
    """What one unit of a machine costs."""

    price: float = Field(ge=0)
    unit: Literal["core-hour", "device-hour"]
    accelerator: str = ""  # part of the device's name; empty: a CPU
    peak_flops: float | None = Field(default=None, gt=0)  # FLOP/s of a large bf16 matrix product
    dated: date
    source: str

    def money(self, seconds: float, threads: int) -> float:
        """Of so many seconds on so many threads (which a device does not count)."""
        return self.price * seconds / _HOUR_S * (threads if self.unit == "core-hour" else 1)


class JudgePrice(_Table):
    """Money for a million tokens that a judge's model reads and writes."""

    price_in: float = Field(ge=0)
    price_out: float = Field(ge=0)


class _File(_Table):
    currency: str
    machine: dict[str, Machine]
    judge: dict[str, JudgePrice] = {}


@dataclass(frozen=True)
class Prices:
    """A table that was read. file: where from, for messages."""

    file: Path
    currency: str
    machines: Mapping[str, Machine]
    judges: Mapping[str, JudgePrice]

    @property
    def name(self) -> str:
        """For people."""
        return "outdo's own examples" if self.file == SHIPPED else str(self.file)

    def machine(self, name: str | None, accelerator: str | None) -> str:
        """The name of the machine: as the reader calls it, or by the accelerator's name (None: a CPU). Raises UserError."""
        if name is not None:
            check(name in self.machines, f"--machine {name!r} has no price in {self.name}{nearest(name, self.machines)}; add "
                  f"[machine.{name}] to a file and give it with --prices FILE")
            return name
        known = {n: m for n, m in self.machines.items() if bool(m.accelerator) == (accelerator is not None)}
        found = [n for n, m in known.items() if accelerator is None or m.accelerator.lower() in accelerator.lower()]
        what = "a CPU" if accelerator is None else repr(accelerator)
        check(bool(found), f"{what} has no price in {self.name}, which has {', '.join(self.machines) or 'none'}; add a "
              "[machine.NAME] to a file and give it with --prices FILE, or name one with --machine")
        return max(found, key=lambda n: len(self.machines[n].accelerator))

    def judging(self, asked: Asked) -> float:
        """What a model behind a server charges. Raises UserError if nobody says what it costs."""
        price = JudgePrice(price_in=asked.price_in, price_out=asked.price_out)
        if not asked.price_in and not asked.price_out and not asked.local:
            check(asked.model in self.judges, f"the judge's model {asked.model!r} has no price; set the judge's price_in and "
                  f"price_out, or add [judge.\"{asked.model}\"] to a file and give it with --prices FILE (0 if it is free)")
            price = self.judges[asked.model]
        return (asked.read_tokens * price.price_in + asked.written_tokens * price.price_out) / _MILLION


def load(file: Path | None = None) -> Prices:
    """Read a table; None: outdo's own. Raises UserError."""
    path = file or SHIPPED
    check(path.is_file(), f"--prices {str(path)!r} does not exist; copy outdo's own as a start: {SHIPPED}")
    try:
        table = _File(**tomllib.loads(path.read_text(encoding="utf-8")))
    except (ValueError, ValidationError) as e:
        first = e.errors()[0] if isinstance(e, ValidationError) else None
        said = str(e) if first is None else f"{'.'.join(str(p) for p in first['loc'])}: {first['msg']}"
        raise UserError(f"{path} is no table of prices ({said}); its form is that of {SHIPPED}") from None
    return Prices(path, table.currency, table.machine, table.judge)
