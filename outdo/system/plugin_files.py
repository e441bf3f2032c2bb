"""Python files named by path, `my_rewards.py:correct`, imported as scripts are: modules beside the file can be imported.

Two files in different folders may each have a module `helpers` beside them: while one loads, modules that came with the other and
are called like one of its own neighbours are out of sight.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

from outdo.errors import check
from outdo.system.user_code import guarded

_folders: set[str] = set()  # of the files loaded so far
_loaded: dict[Path, tuple[tuple[int, int], ModuleType]] = {}


def load_file(path: Path) -> ModuleType:
    """The file's module, run once until the file changes. Raises UserError if there is no such file, and what the file raises."""
    check(path.is_file(), f"plug-in file {str(path)!r} does not exist; give a path relative to the current folder")
    file, status = path.resolve(), path.stat()
    stamp = (status.st_mtime_ns, status.st_size)
    if file in _loaded and _loaded[file][0] == stamp:  # twice would give functions that nobody can pickle, and two states
        return _loaded[file][1]
    name = f"outdo_plugin_{path.stem}_{hashlib.blake2b(str(file.parent).encode(), digest_size=4).hexdigest()}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    import torch  # noqa: F401 (its settings are put back only if they are known before)

    with guarded(), _neighbours(file.parent):
        spec.loader.exec_module(module)
    _loaded[file] = (stamp, module)
    return module


@contextmanager
def _neighbours(folder: Path) -> Iterator[None]:
    """While a file loads, its folder comes first on the path, as for a script; later it is the last one.

    It stays, because functions import when they are called, and other processes what is pickled.
    """
    here = str(folder)
    names = folder.iterdir() if _folders - {here} else ()
    taken = [name for p in names if _from_another(name := p.name.removesuffix(".py"), here)]
    hidden = {n: sys.modules.pop(n) for n in list(sys.modules) if n.partition(".")[0] in taken}
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with suppress(ValueError):  # the file has a path of its own
            sys.path.remove(here)
        if here not in sys.path:
            sys.path.append(here)
        _folders.add(here)
        if hidden:
            for name in [n for n in sys.modules if n.partition(".")[0] in taken]:
                del sys.modules[name]
            sys.modules.update(hidden)


def _from_another(name: str, here: str) -> bool:
    """Whether a module of this name has come with a file in another folder."""
    module = sys.modules.get(name)
    place = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", [])), None)
    if place is None:
        return False
    beside = {str(Path(place).parent), str(Path(place).parent.parent)}  # helpers.py, helpers/__init__.py
    return here not in beside and bool(beside & _folders)
