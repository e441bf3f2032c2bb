"""json_schema: 1 for a completion that is JSON and fits a schema; `parses` for JSON that does not fit it (library jsonschema).

Read is the last ```json block, or the whole completion. References to other documents are not followed.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import Field

from outdo.errors import UserError, check
from outdo.judges.base import Options
from outdo.judges.common.answers import words
from outdo.judges.common.rule import Rule, no_answer
from outdo.types import Score, Trajectory

_BLOCK = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)
_LONGEST = 100_000  # characters


class JsonSchema(Rule):
    """1, `parses` or 0."""

    name = "json_schema"

    class Config(Options):
        """Options of json_schema."""

        data: str | None = None  # file of the schema
        column: str | None = None  # or the column that holds each row's own, as a table or as JSON
        parses: float = Field(default=0.0, ge=0, le=1)

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        c = self.config
        check((c.data is None) != (c.column is None), "judge json_schema needs either data (a schema's file) or column (each "
              "row's own); set one")
        self._validator = None if c.data is None else _validator(_read(Path(c.data)))

    def rate(self, t: Trajectory) -> Score:
        """See `Rule.rate`."""
        blocks = _BLOCK.findall(text := words(t))
        try:
            said = json.loads(blocks[-1] if blocks else text[:_LONGEST])
        except (ValueError, RecursionError) as e:
            return no_answer(f"no JSON ({type(e).__name__})")
        try:
            validator = self._validator or _validator(_own(t.info[self.config.column or ""]))
        except UserError as e:
            return Score(None, str(e))
        try:
            fault = next(validator.iter_errors(said), None)
        except RecursionError:
            return Score(0.0, "nested too deep")
        return Score(1.0, "fits") if fault is None else Score(self.config.parses, f"{fault.json_path}: {fault.message[:80]}")


def _own(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError as e:
        raise UserError(f"its schema is no JSON ({e})") from None


def _read(file: Path) -> Any:
    check(file.is_file(), f"judge json_schema: data = {str(file)!r} does not exist; give a file that holds a JSON schema")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as e:
        raise UserError(f"judge json_schema: {str(file)!r} is no JSON ({e})") from None


def _validator(schema: Any) -> Any:
    try:
        import jsonschema
        from referencing import Registry
    except ImportError:
        raise UserError("judge json_schema needs jsonschema; install it: pip install 'outdo[llm]'") from None
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as e:
        raise UserError(f"judge json_schema: that is no JSON schema ({e.message[:100]})") from None
    return kind(schema, registry=Registry())
