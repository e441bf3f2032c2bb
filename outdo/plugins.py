"""Plug-ins are found by name: `outdo/judges/exact_match.py`, or `my_judge.py:MyJudge` anywhere. There is no registry."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from abc import ABC
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from outdo.errors import UserError, check, nearest
from outdo.system.plugin_files import load_file
from outdo.system.user_code import guarded

T = TypeVar("T")
_NOT_PLUGINS = {"base"}
_NUMBERS = (int, float, int | None, float | None, tuple[int, ...], tuple[float, ...])


class Options(BaseModel):
    """Base of every plug-in's nested Config: typed, frozen, misspelt keys are errors, numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[info.field_name or ""].annotation
        values = value if isinstance(value, list | tuple) else (value,)
        if any(isinstance(v, bool) for v in values) and annotation in _NUMBERS:
            raise ValueError("a number is needed here, not true or false")
        return value


class Configured(ABC):  # noqa: B024 (its abstract methods are those of the kinds)
    """Base of every kind of plug-in: made with its options, which its nested Config names, types and checks."""

    Config: ClassVar[type[Any]] = Options


class Plugin(BaseModel):
    """A plug-in by name (`outdo/judges/<name>.py`) or path (`my_judge.py:MyJudge`), with its own options beside it."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def options(self) -> dict[str, Any]:
        """What stands beside the name; checked by the plug-in's own Config."""
        return dict(self.__pydantic_extra__ or {})


def names(package: str) -> list[str]:
    """Names of the plug-in files in outdo/<package>/."""
    folder = importlib.import_module(f"outdo.{package}")
    return sorted(m.name for m in pkgutil.iter_modules(folder.__path__) if not m.ispkg and m.name not in _NOT_PLUGINS)


def find(package: str, name: str, base: type[T]) -> type[T]:
    """The plug-in class called `name`, derived from `base`. Raises UserError."""
    if ":" in name:
        file, _, attribute = name.rpartition(":")
        found = getattr(_imported(name, file), attribute, None)
        check(inspect.isclass(found) and issubclass(found, base),
              f"{name!r}: {file} has no class {attribute} derived from {base.__name__}")
        return cast(type[T], found)
    if name not in names(package):
        raise UserError(f"no {package[:-1]} called {name!r}{nearest(name, names(package))}; "
                        f"your own goes by path: my_file.py:MyClass")
    module = importlib.import_module(f"outdo.{package}.{name}")
    for _, value in inspect.getmembers(module, inspect.isclass):
        if issubclass(value, base) and value.__module__ == module.__name__ and not inspect.isabstract(value):
            return value
    raise UserError(f"outdo/{package}/{name}.py defines no class derived from {base.__name__}")


def make(package: str, plugin: Plugin, base: type[T]) -> T:
    """An instance with its options checked against the plug-in's own Config. Raises UserError."""
    kind: Any = find(package, plugin.name, base)
    return cast(T, kind(configured(package, plugin, kind)))


def written_out(package: str, plugin: Plugin, base: type[Any]) -> Plugin:
    """The plug-in with every default of its options. Raises UserError."""
    config = configured(package, plugin, find(package, plugin.name, base))
    return Plugin(name=plugin.name, **config.model_dump(mode="json", exclude_none=True))


def configured(package: str, plugin: Plugin, kind: Any) -> Any:
    """The plug-in's options as its own class's Config. Raises UserError."""
    try:
        return kind.Config(**plugin.options)
    except ValidationError as e:
        lines = []
        for problem in e.errors():
            key = ".".join(str(p) for p in problem["loc"])
            if problem["type"] == "extra_forbidden":
                valid = list(kind.Config.model_fields)
                lines.append(f"{package[:-1]} {plugin.name!r} has no option {key!r}{nearest(key, valid)}")
            else:
                lines.append(f"{package[:-1]} {plugin.name!r}: {key} = {problem['input']!r}: {problem['msg']}")
        raise UserError("; ".join(lines)) from None


def load(what: str) -> Any:
    """The object that `my_file.py:name` or `package.module:name` means: a reward function, a tool. Raises UserError."""
    place, _, attribute = what.rpartition(":")
    check(bool(place and attribute), f"{what!r} names no function; write my_file.py:name or package.module:name")
    module = _imported(what, place)
    found = getattr(module, attribute, None)
    if found is None:
        own = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise UserError(f"{what!r}: {place} has no {attribute}{nearest(attribute, own)}")
    return found


def _imported(what: str, place: str) -> ModuleType:
    """The module of a file, or one by its name. Raises UserError."""
    try:
        if place.endswith(".py"):
            return load_file(Path(place))
        with guarded():
            return importlib.import_module(place)
    except UserError:
        raise
    except Exception as e:
        raise UserError(f"{what!r}: {place} cannot be imported ({type(e).__name__}: {e})") from None
