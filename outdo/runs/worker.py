"""A process that works on one stage of a run for `side_by_side.py`: `python -m outdo.runs.worker FOLDER STAGE THREADS`.

It reads its run folder and writes one line of JSON to stdout for all that happens. It ends with its parent, however that ends:
its stdin is then closed.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from os import _exit  # user code cannot be in its place
from pathlib import Path
from typing import IO, Any

from outdo.errors import UserError
from outdo.runs.folder import resume_recipe


def main(folder: Path, stage: str, threads: int, say: Callable[[dict[str, Any]], None]) -> None:
    """Work on one stage of the run in `folder` and say how it ended."""
    def show(name: str, share: float, message: str) -> None:
        say({"share": share, "message": message})

    try:
        # These take seconds, in which Ctrl-C may come.
        from outdo.runs import run
        from outdo.runs.check import check_recipe
        from outdo.runs.resolve import resolve
        from outdo.stages.common.context import stop_gently

        checked = check_recipe(resolve(resume_recipe(folder)))
        state = run.begin(checked, folder, show)
        with stop_gently(state, announce=False):
            run.run_stage(checked, state, stage, threads)
    except KeyboardInterrupt:
        say({"end": "interrupted"})
    except UserError as e:
        say({"end": "user", "text": str(e)})
    except OSError as e:
        say({"end": "os", "errno": e.errno, "text": e.strerror or str(e)})
    else:
        say({"end": "done"})


def _end_with_parent(stdin: IO[bytes]) -> None:
    stdin.read()
    _exit(1)


if __name__ == "__main__":
    events = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed must not get between the events
    threading.Thread(target=_end_with_parent, args=(os.fdopen(os.dup(0), "rb"),), daemon=True).start()
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), lambda event: print(json.dumps(event), file=events, flush=True))
    os._exit(0)  # not through the interpreter's end, where the thread above holds stdin
