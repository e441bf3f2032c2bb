"""What every task with a vocabulary of its own promises, for each file in outdo/tasks/. (Text tasks: test_text_tasks.py.)

Run: .venv/bin/python -m pytest tests/contracts/test_tasks.py   (about 10 s on one core)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from pydantic import ValidationError

from outdo import plugins
from outdo.errors import UserError
from outdo.judges.base import Judge
from outdo.plugins import Plugin
from outdo.tasks.base import Task
from outdo.tasks.text.task import TextTask
from outdo.types import Finish, IntArray, Prompt, Trajectory

NAMES = [n for n in plugins.names("tasks") if not issubclass(plugins.find("tasks", n, Task), TextTask)]  # type: ignore[type-abstract]
SPLITS = ("pretrain", "train", "validation", "heldout")


def make(name: str) -> Task:
    return plugins.make("tasks", Plugin(name=name), Task)  # type: ignore[type-abstract]


@pytest.fixture(scope="module", params=NAMES)
def task(request: pytest.FixtureRequest) -> Task:
    return make(request.param)


@pytest.fixture(scope="module")
def gold(task: Task) -> Judge:
    return plugins.make("judges", Plugin(name=task.judge), Judge)  # type: ignore[type-abstract]


def as_lists(prompts: Sequence[Prompt]) -> list[tuple[str, list[int], str]]:
    return [(p.id, p.token_ids.tolist(), json.dumps(dict(p.row), sort_keys=True)) for p in prompts]


def turns(t: Trajectory) -> Iterator[tuple[list[int], list[int]]]:
    """(reply, observation after it) of every turn."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], t.mask, [False]]).astype(int)))
    starts, ends = edges[::2], edges[1::2]
    for start, end, following in zip(starts, ends, [*starts[1:], len(t.token_ids)], strict=True):
        yield t.token_ids[start:end].tolist(), t.token_ids[end:following].tolist()


def drive(
    task: Task, prompts: Sequence[Prompt], seeds: IntArray, reply: IntArray, opponent: str | None = None
) -> list[Trajectory]:
    """Answer every observation with the same reply until the episode ends, or max_tokens are written."""
    episodes = task.episodes(prompts, seeds, opponent)
    tokens = [p.token_ids.tolist() for p in prompts]
    masks = [[False] * len(t) for t in tokens]
    finish = [Finish.LENGTH] * len(prompts)
    rows = np.arange(len(prompts))
    while len(rows):
        observations, done = episodes.step(rows, np.tile(reply, (len(rows), 1)))
        for row, observation, over in zip(rows, observations, done, strict=True):
            written, seen = [int(x) for x in reply if x >= 0], [int(x) for x in observation if x >= 0]
            tokens[row] += written + seen
            masks[row] += [True] * len(written) + [False] * len(seen)
            finish[row] = Finish.DONE if over else finish[row]
        rows = np.array([r for r, over in zip(rows, done, strict=True) if not over and len(tokens[r]) < task.max_tokens], int)
    return [Trajectory(p.id, 0, np.array(t), np.array(m), np.zeros(len(t), np.float32), -1, f, episodes.info(i))
            for i, (p, t, m, f) in enumerate(zip(prompts, tokens, masks, finish, strict=True))]  # fmt: skip


# --- prompts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_same_seed_same_order(task: Task, split: str) -> None:
    want = as_lists(task.prompts(split, 50, seed=1))
    assert as_lists(make(task.name).prompts(split, 50, seed=1)) == want
    assert as_lists(task.prompts(split, 50, seed=2)) != want
    assert len({name for name, _, _ in want}) == 50, "ids name prompts"


@pytest.mark.parametrize("split", SPLITS)
def test_start_slices_one_stream(task: Task, split: str) -> None:
    """However the stream is cut into steps, prompt number i is the same."""
    want = as_lists(task.prompts(split, 60, seed=1))
    for cuts in ([60], [20, 20, 20], [1, 58, 1], [0, 60]):
        got, start = [], 0
        for n in cuts:
            got += as_lists(task.prompts(split, n, seed=1, start=start))
            start += n
        assert got == want
    assert as_lists(task.prompts(split, 5, 1, start=10**6)) != want[:5]


def test_splits_share_no_prompt(task: Task) -> None:
    """Nothing that is measured was ever trained on. (Pre-training and training may share.)"""
    seen = {s: {tuple(p.token_ids.tolist()) for seed in (0, 1) for p in task.prompts(s, 3000, seed)} for s in SPLITS}
    assert all(len(items) > 500 for items in seen.values())
    for measured in ("validation", "heldout"):
        for other in SPLITS:
            assert other == measured or not seen[measured] & seen[other], (measured, other)


def test_prompts_fit(task: Task) -> None:
    vocabulary = len(task.tokenizer())
    for split in SPLITS:
        for p in task.prompts(split, 50, seed=1):
            assert p.token_ids.dtype == np.int64 and p.token_ids.ndim == 1
            assert 0 < len(p.token_ids) < task.max_tokens and 0 <= p.token_ids.min() <= p.token_ids.max() < vocabulary
            assert json.loads(json.dumps(dict(p.row))) == dict(p.row)


def test_unknown_split_is_a_user_error(task: Task) -> None:
    with pytest.raises(UserError, match="no_such_split"):
        task.prompts("no_such_split", 1, 0)


# --- players and episodes -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def played(task: Task) -> dict[tuple[str, str], list[Trajectory]]:
    prompts = task.prompts("train", 60, seed=5)
    return {(p, o): task.play(p, prompts, np.arange(60), o) for p in task.players for o in task.opponents}


@pytest.mark.slow
def test_trajectories_are_well_formed(task: Task, played: dict[tuple[str, str], list[Trajectory]]) -> None:
    prompts, vocabulary = task.prompts("train", 60, seed=5), len(task.tokenizer())
    for games in played.values():
        for prompt, t in zip(prompts, games, strict=True):
            n = len(prompt.token_ids)
            assert t.prompt_id == prompt.id and t.token_ids[:n].tolist() == prompt.token_ids.tolist()
            assert t.mask.dtype == bool and not t.mask[:n].any() and t.mask.any()
            assert (t.logprobs[~t.mask] == 0).all() and (t.logprobs <= 0).all() and np.isfinite(t.logprobs).all()
            assert len(t.token_ids) <= task.max_tokens and 0 <= t.token_ids.min() <= t.token_ids.max() < vocabulary
            assert all(1 <= len(reply) <= task.turn_tokens for reply, _ in turns(t))
            assert t.policy_version == -1 and t.finish == Finish.DONE
            assert json.loads(json.dumps(dict(t.info))) == dict(t.info)
            json.dumps(task.replay(t))


def test_same_seeds_same_games_whatever_the_company(task: Task, played: dict[tuple[str, str], list[Trajectory]]) -> None:
    prompts = task.prompts("train", 60, seed=5)
    for (player, opponent), games in played.items():
        some = [7, 3, 41]
        again = task.play(player, [prompts[i] for i in some], np.array(some), opponent)
        assert [t.token_ids.tolist() for t in again] == [games[i].token_ids.tolist() for i in some]
        assert [t.info for t in again] == [games[i].info for i in some]


def test_a_players_game_is_an_episode(task: Task, played: dict[tuple[str, str], list[Trajectory]]) -> None:
    """A player's own replies, fed to fresh episodes, give the same observations and facts."""
    prompts = task.prompts("train", 60, seed=5)
    for (_, opponent), games in played.items():
        episodes = task.episodes(prompts, np.arange(60), opponent)
        scripts = [list(turns(t)) for t in games]
        for number in range(max(map(len, scripts))):
            rows = np.array([i for i, script in enumerate(scripts) if number < len(script)])
            replies = np.full((len(rows), task.turn_tokens), -1)
            for i, row in enumerate(rows):
                reply = scripts[row][number][0]
                replies[i, : len(reply)] = reply
            observations, done = episodes.step(rows, replies)
            for i, row in enumerate(rows):
                assert [x for x in observations[i].tolist() if x >= 0] == scripts[row][number][1]
                assert done[i] == (number == len(scripts[row]) - 1)
        assert [episodes.info(i) for i in range(60)] == [dict(t.info) for t in games]


def test_opponents_differ(task: Task, played: dict[tuple[str, str], list[Trajectory]]) -> None:
    for player in task.players:
        games = {o: [t.token_ids.tolist() for t in played[player, o]] for o in task.opponents}
        assert all(games[a] != games[b] for a in games for b in games if a < b)


# --- the score ------------------------------------------------------------------------------------------------------


def test_gold_agrees_with_the_headline(task: Task, gold: Judge, played: dict[tuple[str, str], list[Trajectory]]) -> None:
    """Full marks exactly for what the task itself counts; every metric has one finite number or NaN per game."""
    totals = []
    for games in played.values():
        metrics = task.metrics(games)
        headline = metrics[task.headline]
        assert [s.value for s in gold.score(games)] == headline.tolist()
        assert set(headline.tolist()) <= {0.0, 1.0}
        for name, column in metrics.items():
            assert column.shape == (60,) and column.dtype == np.float64 and not np.isinf(column).any(), name
        totals.append(headline.sum())
    assert 0 < sum(totals) < 60 * len(played)


def test_perfect_play_wins_and_random_play_does_not(
    task: Task, gold: Judge, played: dict[tuple[str, str], list[Trajectory]]
) -> None:
    first = task.opponents[0]
    means = {p: np.mean([s.value for s in gold.score(played[p, first])]) for p in task.players}  # type: ignore[misc]
    assert means["perfect"] == 1.0 and means["random"] <= 0.2


@pytest.mark.parametrize("attack", ["empty", "padding", "echo", "last token", "beyond the vocabulary"])
def test_nonsense_earns_nothing(task: Task, gold: Judge, attack: str) -> None:
    """Silence, one token for ever, the prompt echoed, ids that no tokenizer has: scored, and scored zero."""
    prompts = task.prompts("train", 20, seed=6)
    reply = np.full(task.turn_tokens, -1)
    if attack == "padding":
        reply[:] = 0
    elif attack == "echo":
        reply[:] = prompts[0].token_ids[: task.turn_tokens]
    elif attack == "last token":
        reply[:] = len(task.tokenizer()) - 1
    elif attack == "beyond the vocabulary":
        reply[:] = len(task.tokenizer()) + 5
    games = drive(task, prompts, np.arange(20), reply)
    assert [s.value for s in gold.score(games)] == [0.0] * 20
    assert (task.metrics(games)[task.headline] == 0).all()
    assert all(json.dumps(g.info) for g in games)


def test_options(task: Task) -> None:
    assert make(task.name).name == task.name and task.name in NAMES and task.Config.model_config["frozen"]
    with pytest.raises(ValidationError):
        task.Config(no_such_option=1)  # type: ignore[call-arg]
    for player in task.players:
        assert task.player_flops(player) >= 0


def test_judge_pairs_differ_only_in_the_outcome(task: Task, played: dict[tuple[str, str], list[Trajectory]]) -> None:
    """Equal lengths, deterministic, never more than asked for."""
    games = [t for group in played.values() for t in group]
    pairs = task.judge_pairs(games, 40, seed=1)
    assert 0 < len(pairs) <= 40
    assert all(len(a) == len(b) and a.tolist() != b.tolist() for a, b in pairs)
    again = task.judge_pairs(games, 40, seed=1)
    assert [(a.tolist(), b.tolist()) for a, b in pairs] == [(a.tolist(), b.tolist()) for a, b in again]
