"""Code that is not ours cannot change the process under outdo's feet, end it, or go on as a second one.

Run: .venv/bin/python -m pytest tests/system/test_user_code.py   (about 2 s on one core)
"""

from __future__ import annotations

import asyncio
import locale
import os
import random
import signal
import sys
import threading
import timeit
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from outdo import plugins
from outdo.errors import UserError
from outdo.interop import partners
from outdo.system import user_code
from outdo.system.user_code import call, guarded, handling


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    yield
    user_code._theirs.clear()


def process() -> dict[str, Any]:
    return {"folder": os.getcwd(), "variables": dict(os.environ), "locale": locale.setlocale(locale.LC_ALL),
            "gradients": torch.is_grad_enabled(), "dtype": torch.get_default_dtype(), "threads": torch.get_num_threads(),
            "numpy": np.geterr(), "streams": (sys.stdout, sys.stderr)}


def meddle(folder: Path) -> None:
    os.chdir(folder)
    os.environ["OUTDO_KERNELS"] = "off"
    os.environ.pop("HOME", None)
    locale.setlocale(locale.LC_ALL, "C")
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.bfloat16)
    torch.set_num_threads(torch.get_num_threads() + 1)
    np.seterr(all="raise")


def test_the_process_keeps_its_settings_and_the_code_its_own(tmp_path: Path) -> None:
    before = process()
    with guarded():
        meddle(tmp_path)
        changed = process()
        sys.stdout = sys.stderr
    assert process() == before and changed != before
    with guarded():
        assert process() == changed, "it finds what it has left"
        os.environ.clear(), os.environ.update(before["variables"])
        torch.set_grad_enabled(True)
    assert process() == before
    with guarded():
        assert torch.is_grad_enabled() and "HOME" in os.environ and os.getcwd() == str(tmp_path)


def test_also_after_an_exception_and_where_the_folder_is_gone(tmp_path: Path) -> None:
    before = process()
    for times in range(2):
        with pytest.raises(ZeroDivisionError), guarded():
            if not times:
                (tmp_path / "gone").mkdir()
                meddle(tmp_path / "gone")
                (tmp_path / "gone").rmdir()
            raise ZeroDivisionError
        assert process() == before


def test_signal_handlers_are_put_back() -> None:
    seen: list[int] = []
    with handling(lambda number, frame: seen.append(number), signal.SIGTERM):
        with guarded():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.kill(os.getpid(), signal.SIGTERM)
    assert seen == [signal.SIGTERM] and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def raises(e: BaseException) -> Callable[[], None]:
    def function() -> None:
        raise e

    return function


async def cancelled() -> None:
    asyncio.current_task().cancel()  # type: ignore[union-attr]
    await asyncio.sleep(1)


async def exits() -> None:
    sys.exit(3)


@pytest.mark.parametrize(("function", "name", "said"), [
    (sys.exit, "SystemExit", r"it called exit\(\)"),
    (lambda: sys.exit(0), "SystemExit", r"it called exit\(0\)"),
    (lambda: os._exit(0), "SystemExit", r"it called exit\(0\)"),
    (exits, "SystemExit", r"it called exit\(3\)"),
    (raises(asyncio.CancelledError()), "CancelledError", "must not raise it"),
    (cancelled, "CancelledError", "must not raise it"),
    (raises(GeneratorExit("x")), "GeneratorExit", "x"),
])  # fmt: skip
def test_what_would_end_the_process_is_an_exception(function: Callable[[], Any], name: str, said: str) -> None:
    real = os._exit
    for _ in range(2):
        with pytest.raises(Exception, match=said) as caught:
            call(function, 5.0)
        assert type(caught.value).__name__ == name and os._exit is real
    with pytest.raises(KeyboardInterrupt), guarded():
        raise KeyboardInterrupt


def test_exit_in_a_coroutine_does_not_end_the_shared_event_loop() -> None:
    for _ in range(2):
        with pytest.raises(user_code.Escaped, match=r"exit\(3\)"):
            partners.awaited(exits())


@pytest.mark.parametrize(("ending", "code"), [(lambda: None, 0), (lambda: sys.exit(7), 7), (lambda: os._exit(8), 8),
                                              (raises(ValueError("x")), 1)])  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*")
def test_a_forked_process_does_not_come_back(ending: Callable[[], None], code: int, capfd: pytest.CaptureFixture[str]) -> None:
    child = 0
    with guarded():
        child = os.fork()
        if child == 0:
            ending()
    assert child, "the child went on"
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == code
    assert ("ValueError: x" in capfd.readouterr().err) == (code == 1)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*")
def test_a_forked_process_has_the_handlers_from_before() -> None:
    with handling(lambda number, frame: None, signal.SIGTERM, signal.SIGINT):
        ready, told = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(told, b"x")
            signal.pause()
            os._exit(0)
        os.read(ready, 1)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


def test_cost() -> None:
    def nothing() -> None:
        with guarded():
            pass

    assert min(timeit.repeat(nothing, number=500, repeat=5)) / 500 < 200e-6, "about 20 microseconds where nothing else runs"


def test_global_random_generators_go_on() -> None:
    """outdo draws from none of them, so what a function draws need not be the same at every call."""
    drawn = []
    for _ in range(2):
        with guarded():
            drawn.append((random.random(), float(np.random.rand()), float(torch.rand(()))))
    assert drawn[0] != drawn[1]


# --- files of plug-ins -----------------------------------------------------------------------------------------------


def test_modules_beside_a_file_can_be_imported(tmp_path: Path) -> None:
    for name in ("a", "b"):
        folder = tmp_path / name
        (folder / "graders").mkdir(parents=True)
        (folder / "helpers.py").write_text(f"WHOSE = '{name}'\n", encoding="utf-8")
        (folder / "graders" / "__init__.py").write_text("", encoding="utf-8")
        (folder / "graders" / "exact.py").write_text("from helpers import WHOSE\nNAME = 'graders of ' + WHOSE\n",
                                            encoding="utf-8")
        (folder / f"only_{name}.py").write_text(f"LATE = 'late {name}'\n", encoding="utf-8")
        (folder / "rewards.py").write_text("import helpers\nfrom graders.exact import NAME\n"
                                           "def whose():\n    return helpers.WHOSE, NAME\n"
                                           f"def late():\n    import only_{name}\n    return only_{name}.LATE\n",
                                            encoding="utf-8")
    path = list(sys.path)
    try:
        found = {name: [plugins.load(f"{tmp_path / name}/rewards.py:{f}") for f in ("whose", "late")] for name in ("a", "b", "a")}
        for name, (whose, late) in found.items():
            assert whose() == (name, f"graders of {name}") and late() == f"late {name}", "also at call time"
        assert sys.modules["helpers"].WHOSE == "a", "the first one stays for whoever pickles its functions"
        assert sys.path[: len(path)] == path, "nothing comes before the libraries"
        assert found["a"][0].__module__ != found["b"][0].__module__
    finally:
        sys.path[:] = path
        for name in [n for n in sys.modules if n.split(".")[0] in ("helpers", "graders", "only_a", "only_b")]:
            del sys.modules[name]


@pytest.mark.parametrize("line", ["import sys; sys.exit(0)", "exit()", "import os; os._exit(0)", "1 / 0", "import no_such_module",
                                  "def f(:"])  # fmt: skip
def test_a_file_that_cannot_be_loaded_is_one_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "mine.py").write_text(f"{line}\n", encoding="utf-8")
    kinds = "SystemExit|ZeroDivision|ModuleNotFound|SyntaxError"
    for load in (lambda: plugins.load(f"{tmp_path}/mine.py:f"), lambda: plugins.find("judges", f"{tmp_path}/mine.py:F", object)):
        with pytest.raises(UserError, match=rf"mine\.py cannot be imported \(({kinds})"):
            load()


def test_loading_changes_nothing_of_the_process(tmp_path: Path) -> None:
    before = process()
    (tmp_path / "mine.py").write_text("import os, torch\nos.chdir('/')\ntorch.set_grad_enabled(False)\nf = len\n",
                                            encoding="utf-8")
    plugins.load(f"{tmp_path}/mine.py:f")
    assert process() == before
    with guarded():
        assert os.getcwd() == "/", "its functions may rely on what it did"


def test_off_the_main_thread() -> None:
    got: list[str] = []

    def work() -> None:
        try:
            call(lambda: sys.exit(1), 5.0)
        except Exception as e:
            got.append(type(e).__name__)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert got == ["SystemExit"]
