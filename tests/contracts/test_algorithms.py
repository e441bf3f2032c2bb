"""What every algorithm promises, for each file in outdo/algorithms/, and one example per algorithm computed by hand.

Run: .venv/bin/python -m pytest tests/contracts/test_algorithms.py   (about 3 s on one core)

Add an algorithm: nothing to do here but its golden example in GOLDEN.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from outdo import plugins
from outdo.algorithms.base import Algorithm
from outdo.algorithms.grpo import Grpo
from outdo.algorithms.reinforce import Reinforce
from outdo.plugins import Plugin
from outdo.types import TokenBatch

NAMES = plugins.names("algorithms")


def make(name: str, **options: object) -> Algorithm:
    return plugins.make("algorithms", Plugin(name=name, **options), Algorithm)  # type: ignore[type-abstract, arg-type]


@pytest.fixture(params=NAMES)
def algorithm(request: pytest.FixtureRequest) -> Algorithm:
    return make(request.param)


LEARNERS = [n for n in NAMES if type(make(n)).advantages is not Algorithm.advantages]


@pytest.fixture(params=LEARNERS)
def learner(request: pytest.FixtureRequest) -> Algorithm:
    """Algorithms that turn scores into advantages."""
    return make(request.param)


def tokens(n: int = 40, seed: int = 0, off_policy: float = 0.4) -> TokenBatch:
    """n tokens of 6 sequences, log-ratios of about off_policy nats, advantages of both signs."""
    g = torch.Generator().manual_seed(seed)
    old = -3.0 * torch.rand(n, generator=g)
    new = (old + off_policy * torch.randn(n, generator=g)).requires_grad_()
    return TokenBatch(new, old, torch.randn(n, generator=g), torch.arange(n) * 6 // n)


def part(b: TokenBatch, keep: Tensor) -> TokenBatch:
    return TokenBatch(b.logprobs[keep], b.old_logprobs[keep], b.advantages[keep], b.sequence[keep])


def gradient(algorithm: Algorithm, b: TokenBatch, total: int | None = None) -> Tensor:
    loss, _ = algorithm.loss(b, total or len(b.logprobs))
    assert loss.shape == () and loss.dtype == torch.float32
    (out,) = torch.autograd.grad(loss, b.logprobs)
    return out


# --- loss -----------------------------------------------------------------------------------------------------------


def test_zero_advantage_is_zero_gradient(algorithm: Algorithm) -> None:
    b = tokens()
    keep = torch.arange(40) % 3 == 0
    mixed = TokenBatch(b.logprobs, b.old_logprobs, torch.where(keep, b.advantages, 0.0), b.sequence)
    g = gradient(algorithm, mixed)
    assert (g[~keep] == 0).all() and (g[keep] != 0).any()


def test_first_step_on_policy_is_the_plain_policy_gradient(algorithm: Algorithm) -> None:
    """Ratio 1: nothing clipped, no divergence, and d loss / d logprob = -A / N."""
    b = tokens(off_policy=0.0)
    _, metrics = algorithm.loss(b, 40)
    for name in {"clip_fraction", "kl"} & metrics.keys():
        assert float(metrics[name]) == 0.0, name
    torch.testing.assert_close(gradient(algorithm, b), -b.advantages / 40)


def test_off_policy_algorithms_notice_the_ratio() -> None:
    """The test above is not vacuous for algorithms with a ratio."""
    b = tokens()
    assert (gradient(Grpo(), b) + b.advantages / 40).abs().max() > 1e-3
    _, metrics = Grpo().loss(b, 40)
    assert 0 < float(metrics["clip_fraction"]) < 40 and float(metrics["kl"]) > 0


@pytest.mark.parametrize("cuts", [[40], [1, 39], [7, 7, 7, 7, 7, 5], [0, 40]])
def test_micro_batches_add_up(algorithm: Algorithm, cuts: list[int]) -> None:
    """Losses, gradients and metric sums of any split (here also an empty one) are those of the whole."""
    b = tokens(seed=1)
    whole, metrics = algorithm.loss(b, 40)
    wanted = gradient(algorithm, b)
    pieces = [algorithm.loss(part(b, keep), 40) for keep in torch.arange(40).split(cuts)]
    torch.testing.assert_close(sum(loss for loss, _ in pieces), whole)
    (got,) = torch.autograd.grad(sum(loss for loss, _ in pieces), b.logprobs)  # type: ignore[arg-type]
    torch.testing.assert_close(got, wanted)
    for name, value in metrics.items():
        assert value.shape == () and not value.requires_grad
        torch.testing.assert_close(sum(m[name] for _, m in pieces), value)


def test_loss_divides_by_the_global_token_count(algorithm: Algorithm) -> None:
    b = tokens(seed=2)
    torch.testing.assert_close(gradient(algorithm, b, 80), gradient(algorithm, b, 40) / 2)


def test_order_of_sequences_does_not_matter(algorithm: Algorithm) -> None:
    b = tokens(seed=3)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    loss, _ = algorithm.loss(b, 40)
    shuffled, _ = algorithm.loss(part(b, order), 40)
    torch.testing.assert_close(shuffled, loss)


def test_the_batch_is_left_alone(algorithm: Algorithm) -> None:
    b = tokens(seed=4)
    before = [x.detach().clone() for x in (b.logprobs, b.old_logprobs, b.advantages, b.sequence)]
    algorithm.loss(b, 40)[0].backward()  # type: ignore[no-untyped-call]
    assert all(torch.equal(x, y) for x, y in zip((b.logprobs, b.old_logprobs, b.advantages, b.sequence), before, strict=True))


# --- advantages -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [[1.0, 1.0, 1.0], [0.0, 0.0], [0.3, None, 0.3], [None, None], [1.0, None, None], [2.0], []])
def test_no_difference_is_no_signal(learner: Algorithm, values: list[float | None]) -> None:
    """All equal, or fewer than two scored: the group is skipped."""
    assert learner.advantages(values) is None


def test_none_is_left_out(learner: Algorithm) -> None:
    """An unscored trajectory gets None and leaves no trace on the others."""
    scored = learner.advantages([1.0, 0.0, 0.5, 0.0])
    assert scored is not None
    assert learner.advantages([None, 1.0, 0.0, None, 0.5, 0.0]) == [None, *scored[:2], None, *scored[2:]]


def test_better_is_higher_and_shift_does_not_matter(learner: Algorithm) -> None:
    values = [0.2, 0.9, 0.0, 0.4]
    a = learner.advantages(values)
    assert a is not None and sum(x for x in a if x is not None) == pytest.approx(0.0, abs=1e-12)
    ranks = sorted(range(4), key=lambda i: a[i] or 0.0)
    assert ranks == sorted(range(4), key=lambda i: values[i])
    assert learner.advantages([v + 7.0 for v in values]) == pytest.approx(a)
    swapped = learner.advantages(values[::-1])
    assert swapped == pytest.approx(a[::-1])


@pytest.mark.parametrize("values", [[1.0, 0.0], [1.0, 0.0, 0.0, 0.5], [0.1, None, 0.9, 0.3]])
def test_leave_one_out_is_the_mean_baseline_times_g_over_g_minus_1(values: Sequence[float | None]) -> None:
    mean, loo = Grpo().advantages(values), Reinforce().advantages(values)
    scored = [v for v in values if v is not None]
    assert mean is not None and loo is not None
    for v, m, x in zip(values, mean, loo, strict=True):
        if v is None:
            assert m is None and x is None
            continue
        assert m is not None
        others = (sum(scored) - v) / (len(scored) - 1)
        assert x == pytest.approx(v - others) == pytest.approx(m * len(scored) / (len(scored) - 1))


def test_imitation_does_not_learn_from_scores() -> None:
    assert set(NAMES) - set(LEARNERS) == {"sft"}
    with pytest.raises(NotImplementedError, match="sft"):
        make("sft").advantages([1.0, 0.0])


def test_options(algorithm: Algorithm) -> None:
    """Every option has a default, unknown ones are refused, the name is the file's."""
    assert make(algorithm.name).name == algorithm.name and algorithm.name in NAMES
    assert algorithm.Config.model_config["frozen"]
    with pytest.raises(ValidationError):
        algorithm.Config(no_such_option=1)  # type: ignore[call-arg]


# --- by hand --------------------------------------------------------------------------------------------------------
# Two sequences of three tokens, advantages +1 and -1, old log-probs -1, ratios 1, 1.5, 0.5 | 1.5, 0.5, 1; N = 6.

_RATIOS = [1.0, 1.5, 0.5, 1.5, 0.5, 1.0]
_LOGPROBS = [-1.0 + log(r) for r in _RATIOS]
# sum of A log pi = (-1 + ln 1.5 - 1 + ln 0.5 - 1) - (ln 1.5 - 1 + ln 0.5 - 1 - 1) = 0
GOLDEN: dict[str, tuple[float, list[float], dict[str, float]]] = {
    # -(sum of A log pi) / 6; gradient -A / 6
    "sft": (0.0, [-1, -1, -1, 1, 1, 1], {"nll": 0.0}),
    "reinforce": (0.0, [-1, -1, -1, 1, 1, 1], {"objective": 0.0}),
    # A = +1: min(1, 1), min(1.5, 1.28) clipped, min(0.5, 0.8). A = -1: min(-1.5, -1.28), min(-0.5, -0.8) clipped, -1.
    # Their sum is 1 + 1.28 + 0.5 - 1.5 - 0.8 - 1 = -0.52. k3 = r - 1 - ln r, twice for 1.5 and twice for 0.5.
    "grpo": (0.52 / 6, [-1, 0, -0.5, 1.5, 0, 1],
             {"clip_fraction": 2.0, "kl": 2 * (0.5 - log(1.5)) + 2 * (-0.5 - log(0.5))}),
}  # fmt: skip
GOLDEN["gae"] = GOLDEN["grpo"]  # its advantages differ, its loss does not


def test_golden_example(algorithm: Algorithm) -> None:
    assert algorithm.name in GOLDEN, f"write a golden example for {algorithm.name}"
    loss, gradients, metrics = GOLDEN[algorithm.name]
    new = torch.tensor(_LOGPROBS, requires_grad=True)
    b = TokenBatch(new, torch.full((6,), -1.0), torch.tensor([1.0] * 3 + [-1.0] * 3), torch.tensor([0] * 3 + [1] * 3))
    got, sums = algorithm.loss(b, 6)
    assert float(got.detach()) == pytest.approx(loss, abs=1e-6)
    torch.testing.assert_close(gradient(algorithm, b), torch.tensor(gradients) / 6)
    assert {k: float(v) for k, v in sums.items()} == pytest.approx(metrics, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "values", "want"),
    [
        ("grpo", {}, [1.0, 0.0, 0.0, 0.0], [0.75, -0.25, -0.25, -0.25]),
        ("grpo", {"scale": "group"}, [1.0, 0.0, 0.0, 0.0], [3**0.5, -(3**-0.5), -(3**-0.5), -(3**-0.5)]),
        ("grpo", {"scale": "group"}, [3.0, None, 1.0], [1.0, None, -1.0]),
        ("gae", {}, [1.0, 0.0, 0.0, 0.0], [0.75, -0.25, -0.25, -0.25]),
        ("reinforce", {}, [1.0, 0.0, 0.0, 0.0], [1.0, -1 / 3, -1 / 3, -1 / 3]),
        ("reinforce", {}, [3.0, None, 1.0], [2.0, None, -2.0]),
    ],
)
def test_golden_advantages(name: str, options: dict[str, object], values: list[float | None], want: list[float | None]) -> None:
    got = make(name, **options).advantages(values)
    assert got is not None and [g is None for g in got] == [w is None for w in want]
    assert [g for g in got if g is not None] == pytest.approx([w for w in want if w is not None])


def test_gae_by_hand() -> None:
    """Values 0.9, 0.6, 0.2, group mean 0.5, outcome 1: deltas 0.1, -0.4, 0.8; with lambda 0.5: A_3 = 0.8, A_2 = 0, A_1 = 0.1."""
    advantages, targets = make("gae", lam=0.5).per_token(1.0, 0.5, np.float32([0.9, 0.6, 0.2]))
    assert advantages.tolist() == pytest.approx([0.1, 0.0, 0.8], abs=1e-6) and targets.tolist() == pytest.approx([0.6, 0.6, 1.0])


@pytest.mark.parametrize("outcome", [0.0, 1.0])
def test_gae_at_the_ends_of_lambda(outcome: float) -> None:
    """1: outcome minus value, and the critic learns the outcome. 0: one step of temporal difference. No values: no change."""
    values = np.float32([0.3, 0.8, 0.4, 0.1])
    whole, targets = make("gae", lam=1.0).per_token(outcome, 0.25, values)
    assert whole.tolist() == pytest.approx([outcome - v for v in (0.25, 0.8, 0.4, 0.1)])
    assert targets.tolist() == pytest.approx([outcome] * 4)
    single, targets = make("gae", lam=0.0).per_token(outcome, 0.25, values)
    assert single.tolist() == pytest.approx([0.55, -0.4, -0.3, outcome - 0.1])
    assert targets.tolist() == pytest.approx([0.8, 0.4, 0.1, outcome])


def test_only_algorithms_with_a_critic_share_out_scores(algorithm: Algorithm) -> None:
    if algorithm.critic:
        advantages, targets = algorithm.per_token(1.0, 0.5, np.zeros(3, np.float32))
        assert advantages.dtype == targets.dtype == np.float32 and len(advantages) == len(targets) == 3
        assert float(advantages[-1]) > 0
    else:
        with pytest.raises(NotImplementedError, match=algorithm.name):
            algorithm.per_token(1.0, 0.5, np.zeros(3, np.float32))


@pytest.mark.parametrize(("low", "high"), [(0.2, 0.28), (0.1, 0.5)])
def test_grpo_clips_where_it_says(low: float, high: float) -> None:
    """A positive advantage stops pushing at 1 + high, a negative one at 1 - low, and neither on the other side."""
    algorithm = make("grpo", clip_low=low, clip_high=high)
    for ratio, a, pushes in [(1 + high + 0.01, 1, False), (1 + high - 0.01, 1, True), (0.01, 1, True),
                             (1 - low - 0.01, -1, False), (1 - low + 0.01, -1, True), (9.0, -1, True)]:  # fmt: skip
        new = torch.tensor([log(ratio)], requires_grad=True)
        b = TokenBatch(new, torch.zeros(1), torch.tensor([float(a)]), torch.zeros(1, dtype=torch.int64))
        assert (float(gradient(algorithm, b)) != 0) == pushes
        assert float(algorithm.loss(b, 1)[1]["clip_fraction"]) == (not pushes)
