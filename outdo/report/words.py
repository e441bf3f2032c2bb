"""What the page calls things: games that are won or lost, answers that are right or wrong, or samples that score."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """Words for one kind of task."""

    metric: str  # what a player's value measures
    unit: str
    units: str
    step: str  # what is chosen at a time
    plays: str
    imitates: str  # what imitation copies
    own: str  # what rejection copies
    reinforces: str
    good: str
    bad: str


GAMES = Words(
    "games won", "game", "games", "move", "plays", "copies the teacher's games", "imitates its own wins, again and again",
    "plays, is judged by the result, does more of what won", "won", "lost")  # fmt: skip
ANSWERS = Words(
    "share right", "answer", "answers", "token", "answers", "copies right answers",
    "imitates its own right answers, again and again",
    "answers, is judged, does more of what was right", "right", "wrong")  # fmt: skip
SCORES = Words(
    "score", "answer", "answers", "token", "answers", "copies the answers it is shown",
    "imitates its own best answers, again and again",
    "answers, is judged, does more of what scored well", "good", "bad")  # fmt: skip
