"""Chat with a checkpoint whose task is text: what you type goes through its chat template, and all turns stay in the context."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.text import Text

from outdo.errors import check
from outdo.rollout.engine import Sampling
from outdo.runs.reopen import Opened
from outdo.tasks.text.task import TextTask
from outdo.types import Prompt

HELP = "type a message; an empty line starts over, quit leaves"


def talk(opened: Opened, temperature: float, seed: int, console: Console, ask: Callable[[str], str]) -> None:
    """Until "quit" or the end of the input. Raises UserError if the model has no chat template."""
    task = opened.task
    assert isinstance(task, TextTask)
    check(bool(task.tokenizer().chat_template), "the model has no chat template, so there is no conversation; use outdo eval")
    console.print(HELP, style="dim")
    messages: list[dict[str, str]] = []
    for turn in range(1_000_000):
        try:
            said = ask("you: ").strip()
        except EOFError:
            return
        if said == "quit":
            return
        if not said:
            messages.clear()
            console.print("a new conversation", style="dim")
            continue
        messages.append({"role": "user", "content": said})
        shown = task.with_system(messages)
        ids = task.encode({"prompt": shown})
        most = opened.engine.model.config.max_position_embeddings
        check(len(ids) < most, f"the conversation has {len(ids)} tokens and the model reads {most}; start over")
        sampling = Sampling(temperature, task.turn_tokens, min(len(ids) + task.turn_tokens, most), task.stop_ids)
        (reply,), _ = opened.engine.generate([Prompt(f"chat/{turn}", ids)], 1, sampling, seed)
        text = task.reply_text(np.where(reply.mask, reply.token_ids, -1))
        messages.append({"role": "assistant", "content": text})
        console.print(Text("model: ", style="bold"), Text(text), sep="")
