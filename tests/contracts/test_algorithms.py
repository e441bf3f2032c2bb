"""What every algorithm promises, for each file in outdo/algorithms/, and one example per algorithm computed by hand.

Run: .venv/bin/python -m pytest tests/contracts/test_algorithms.py   (about 3 s on one core)

Add an algorithm: nothing to do here but its golden example in GOLDEN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import exp, log

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from outdo import plugins
from outdo.algorithms.base import Algorithm
from outdo.algorithms.common.policy_gradient import PolicyGradient
from outdo.algorithms.grpo import Grpo
from outdo.algorithms.reinforce import Reinforce
from outdo.plugins import Plugin
from outdo.types import OfVocabulary, TokenBatch, Total

NAMES = plugins.names("algorithms")


def make(name: str, **options: object) -> Algorithm:
    return plugins.make("algorithms", Plugin(name=name, **options), Algorithm)  # type: ignore[type-abstract, arg-type]


@pytest.fixture(params=[n for n in NAMES if n != "distillation"])  # a loss of distributions has tests of its own
def algorithm(request: pytest.FixtureRequest) -> Algorithm:
    return make(request.param)


LEARNERS = [n for n in NAMES if type(make(n)).advantages is not Algorithm.advantages]


@pytest.fixture(params=LEARNERS)
def learner(request: pytest.FixtureRequest) -> Algorithm:
    """Algorithms that turn scores into advantages."""
    return make(request.param)


SEQUENCE = torch.arange(40) * 6 // 40  # 6 sequences of 6 or 7 tokens


def tokens(n: int = 40, seed: int = 0, off_policy: float = 0.4) -> TokenBatch:
    """n tokens of 6 sequences, log-ratios of about off_policy nats; each sequence has one advantage, 1 and -1 in turns.

    The reference is the sampling policy, or 0.2 nats away from it where the two policies differ.
    """
    g = torch.Generator().manual_seed(seed)
    old = -3.0 * torch.rand(n, generator=g)
    new = (old + off_policy * torch.randn(n, generator=g)).requires_grad_()
    reference = old + 0.5 * off_policy * torch.randn(n, generator=g)
    advantages = 1.0 - 2.0 * (SEQUENCE % 2)
    logits = torch.randn(n, 5, generator=g).log_softmax(-1)

    def vocabulary(function: OfVocabulary) -> Tensor:
        return function(logits, logits.roll(1, 0))

    values = torch.randn(n, generator=g).requires_grad_()
    return TokenBatch(new, old, advantages, SEQUENCE.clone(), reference, values, vocabulary)


def part(b: TokenBatch, keep: Tensor) -> TokenBatch:
    """Some of the tokens, their sequences numbered from 0 in order of appearance."""
    _, sequence = torch.unique(b.sequence[keep], return_inverse=True)
    assert b.ref_logprobs is not None and b.values is not None
    return TokenBatch(b.logprobs[keep], b.old_logprobs[keep], b.advantages[keep], sequence, b.ref_logprobs[keep], b.values[keep],
                      b.vocabulary)


WHOLE = Total(40, 6)


def gradient(algorithm: Algorithm, b: TokenBatch, total: Total = WHOLE) -> Tensor:
    loss, _ = algorithm.loss(b, total)
    assert loss.shape == () and loss.dtype == torch.float32
    (out,) = torch.autograd.grad(loss, learned(algorithm, b))
    return out


def learned(algorithm: Algorithm, b: TokenBatch) -> Tensor:
    """What the loss is a function of: log-probabilities, or what a reward model's head says."""
    x = b.values if algorithm.name == "bradley_terry" else b.logprobs
    assert x is not None
    return x


def policy_gradients() -> list[str]:
    return [n for n in NAMES if isinstance(make(n), PolicyGradient)]


# --- loss -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in NAMES if not make(n).paired and n not in ("kto", "grpo_paper", "distillation")])
def test_zero_advantage_is_zero_gradient(name: str) -> None:
    """But for a KL penalty, which holds for every token."""
    b = tokens()
    keep = b.sequence % 3 == 0
    mixed = replace(b, advantages=torch.where(keep, b.advantages, 0.0))
    g = gradient(make(name), mixed)
    assert (g[~keep] == 0).all() and (g[keep] != 0).any()


@pytest.mark.parametrize("name", [*policy_gradients(), "sft"])
def test_first_step_on_policy_is_the_plain_policy_gradient(name: str) -> None:
    """Ratio 1: nothing clipped, no divergence, and d loss / d logprob = -A, divided as the algorithm averages."""
    b, algorithm = tokens(off_policy=0.0), make(name)
    _, metrics = algorithm.loss(b, WHOLE)
    for key in {"clip_fraction", "kl", "kl_reference"} & metrics.keys():
        assert float(metrics[key]) == 0.0, key
    lengths = torch.bincount(b.sequence)[b.sequence]
    average = getattr(algorithm.config, "average", "tokens")
    by = {"tokens": 40, "sequences": 6 * lengths, "constant": 6 * 256, "sum": 6}[average]
    torch.testing.assert_close(gradient(algorithm, b), -b.advantages / by)


@pytest.mark.parametrize("name", policy_gradients())
def test_off_policy_algorithms_notice_the_ratio(name: str) -> None:
    """The test above is not vacuous for algorithms with a ratio."""
    b = tokens()
    _, metrics = make(name).loss(b, WHOLE)
    if name in ("reinforce", "rloo"):
        assert float(metrics["clip_fraction"]) == 0.0
        return
    plain = gradient(make(name), tokens(off_policy=0.0))
    assert (gradient(make(name), b) - plain).abs().max() > 1e-3 * plain.abs().max()
    assert float(metrics["kl"]) > 0
    assert 0 < float(metrics["clip_fraction"]) < 40 or name == "cispo"  # none of these ratios reaches 5


ENDS = [0, *(torch.bincount(SEQUENCE).cumsum(0)).tolist()]


@pytest.mark.parametrize("cuts", [[6], [2, 4], [2, 2, 2], [0, 6]])
def test_micro_batches_add_up(algorithm: Algorithm, cuts: list[int]) -> None:
    """Losses, gradients and metric sums of any split between pairs of sequences (here also an empty one) are the whole's."""
    b = tokens(seed=1)
    whole, metrics = algorithm.loss(b, WHOLE)
    wanted = gradient(algorithm, b)
    sequences = torch.arange(6).split(cuts)
    pieces = [algorithm.loss(part(b, torch.isin(b.sequence, some)), WHOLE) for some in sequences]
    torch.testing.assert_close(sum(loss for loss, _ in pieces), whole)
    (got,) = torch.autograd.grad(sum(loss for loss, _ in pieces), learned(algorithm, b))  # type: ignore[arg-type]
    torch.testing.assert_close(got, wanted)
    for name, value in metrics.items():
        assert value.shape == () and not value.requires_grad
        torch.testing.assert_close(sum(m[name] for _, m in pieces), value)


def test_loss_divides_by_the_global_count(algorithm: Algorithm) -> None:
    b = tokens(seed=2)
    torch.testing.assert_close(gradient(algorithm, b, Total(80, 12)), gradient(algorithm, b) / 2)


def test_order_of_sequences_does_not_matter(algorithm: Algorithm) -> None:
    """Pairs, in another order; within a pair the rejected answer may come first."""
    b = tokens(seed=3)
    loss, _ = algorithm.loss(b, WHOLE)
    order = torch.cat([torch.arange(ENDS[i], ENDS[i + 1]) for i in (4, 5, 1, 0, 2, 3)])
    assert b.ref_logprobs is not None and b.values is not None
    sequence = torch.repeat_interleave(torch.arange(6), torch.bincount(SEQUENCE)[torch.tensor([4, 5, 1, 0, 2, 3])])
    shuffled = TokenBatch(b.logprobs[order], b.old_logprobs[order], b.advantages[order], sequence, b.ref_logprobs[order],
                          b.values[order])
    torch.testing.assert_close(algorithm.loss(shuffled, WHOLE)[0], loss)


def test_the_batch_is_left_alone(algorithm: Algorithm) -> None:
    b = tokens(seed=4)
    before = [x.detach().clone() for x in (b.logprobs, b.old_logprobs, b.advantages, b.sequence)]
    algorithm.loss(b, WHOLE)[0].backward()  # type: ignore[no-untyped-call]
    assert all(torch.equal(x, y) for x, y in zip((b.logprobs, b.old_logprobs, b.advantages, b.sequence), before, strict=True))


# --- advantages -----------------------------------------------------------------------------------------------------


OF_BATCH = {"ppo", "reinforce_pp"}  # their baseline is not the group's mean
RELATIVE = [n for n in LEARNERS if n not in OF_BATCH and not make(n).paired]  # each sample against its group


@pytest.mark.parametrize("values", [[1.0, 1.0, 1.0], [0.0, 0.0], [0.3, None, 0.3], [None, None], [1.0, None, None], [2.0], []])
@pytest.mark.parametrize("name", [n for n in LEARNERS if n not in OF_BATCH])
def test_no_difference_is_no_signal(name: str, values: list[float | None]) -> None:
    """All equal, or fewer than two scored: the group is skipped."""
    assert make(name).advantages(values) is None


@pytest.mark.parametrize("name", sorted(OF_BATCH))
def test_without_a_group_baseline_a_single_sample_trains(name: str) -> None:
    assert make(name).advantages([0.7]) == [0.7] and make(name).advantages([None]) is None


def test_none_is_left_out(learner: Algorithm) -> None:
    """An unscored trajectory gets None and leaves no trace on the others."""
    scored = learner.advantages([1.0, 0.0, 0.5, 0.2])
    assert scored is not None
    assert learner.advantages([None, 1.0, 0.0, None, 0.5, 0.2]) == [None, *scored[:2], None, *scored[2:]]


@pytest.mark.parametrize("name", RELATIVE)
def test_better_is_higher_and_shift_does_not_matter(name: str) -> None:
    learner, values = make(name), [0.2, 0.9, 0.0, 0.4]
    a = learner.advantages(values)
    assert a is not None and sum(x for x in a if x is not None) == pytest.approx(0.0, abs=1e-12)
    ranks = sorted(range(4), key=lambda i: a[i] or 0.0)
    assert ranks == sorted(range(4), key=lambda i: values[i])
    if name != "maxrl":  # the mean divides
        assert learner.advantages([v + 7.0 for v in values]) == pytest.approx(a)
    swapped = learner.advantages(values[::-1])
    assert swapped == pytest.approx(a[::-1])


@pytest.mark.parametrize("name", [n for n in LEARNERS if make(n).paired])
def test_pairs_are_the_best_and_the_worst(name: str) -> None:
    assert make(name).advantages([0.2, 0.9, None, 0.0, 0.4]) == [None, 1.0, None, -1.0, None]


def test_whitening_is_over_the_tokens_of_the_batch() -> None:
    """Advantages 1 on two tokens and -2 on one: mean 0, variance 2."""
    for name in OF_BATCH:
        got = make(name).normalise([np.float32([1, 1]), np.float32([-2])])
        assert [a.tolist() for a in got] == [pytest.approx([0.5**0.5] * 2), pytest.approx([-(2**0.5)])]
        assert make(name).normalise([np.float32([3]), np.float32([3, 3])])[1].tolist() == [0, 0]
        assert make(name).normalise([]) == []


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
    assert set(NAMES) - set(LEARNERS) == {"sft", "dft", "kto", "distillation"}
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
# k3 = r - 1 - ln r, twice for 1.5 and twice for 0.5; the reference of those that have one is the sampling policy.
_KL = 2 * (0.5 - log(1.5)) + 2 * (-0.5 - log(0.5))
_PLAIN = [-1, -1, -1, 1, 1, 1]  # times A / 6
_CLIPPED = {"clip_fraction": 2.0, "kl": _KL}


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + exp(-x))


# The two sequences' log-ratios sum to ln 0.75 each, so preference losses see two equal answers (margin 0).
GOLDEN: dict[str, tuple[float, list[float], dict[str, float]]] = {
    # -(sum of A log pi) / 6; gradient -A / 6
    "sft": (0.0, _PLAIN, {"nll": 0.0}),
    # Weights pi = r / e: the sum of r A log pi / e = [(-1 + 1.5 (ln 1.5 - 1) + 0.5 (ln 0.5 - 1)) - the same] / e = 0
    "dft": (0.0, [a * r / exp(1) for a, r in zip(_PLAIN, _RATIOS, strict=True)], {"nll": 0.0}),
    "reinforce": (0.0, _PLAIN, {"clip_fraction": 0.0, "kl": _KL}),
    "rloo": (0.0, [a * 3 for a in _PLAIN], {"clip_fraction": 0.0, "kl": _KL}),  # over 2 sequences, not 6 tokens
    # A = +1: min(1, 1), min(1.5, 1.28) clipped, min(0.5, 0.8). A = -1: min(-1.5, -1.28), min(-0.5, -0.8) clipped, -1.
    # Their sum is 1 + 1.28 + 0.5 - 1.5 - 0.8 - 1 = -0.52.
    "grpo": (0.52 / 6, [-1, 0, -0.5, 1.5, 0, 1], _CLIPPED),
    # With an upper clip of 1.2: the sum is -0.6. Means of three tokens, then of two sequences, are divided by 6 as well.
    "dr_grpo": (0.6 / 2 / 256, [x * 3 / 256 for x in (-1, 0, -0.5, 1.5, 0, 1)], _CLIPPED),
    "reinforce_pp": (0.6 / 6, [-1, 0, -0.5, 1.5, 0, 1], _CLIPPED),
    # + 0.04 k3 of the reference (1/r - 1 + ln r) on every token, whose gradient is 0.04 (1 - 1/r)
    "grpo_paper": ((0.6 + 0.04 * 2 * (1 / 1.5 - 1 + log(1.5) + 1 / 0.5 - 1 + log(0.5))) / 6,
                   [x + 0.04 * (1 - 1 / r) for x, r in zip((-1, 0, -0.5, 1.5, 0, 1), _RATIOS, strict=True)],
                   {**_CLIPPED, "kl_reference": 2 * log(0.75)}),
    # The weights r are below the cap of 5: gradient -A r / 6; the value -(sum of r A log pi) / 6 = 0
    "cispo": (0.0, [a * r for a, r in zip(_PLAIN, _RATIOS, strict=True)], {"clip_fraction": 0.0, "kl": _KL}),
    # s = 0.75^(1/3) for both: A = +1 is not held, A = -1 is clipped at 1 - 3e-4 and has no gradient. Means of three, then two.
    "gspo": ((1 - 3e-4 - 0.75 ** (1 / 3)) / 2, [-(0.75 ** (1 / 3))] * 3 + [0] * 3, {"clip_fraction": 3.0, "kl": _KL}),
    # Equal log-ratios: the loss is log 2, its gradient -beta / 2 per token of the chosen answer, times 6 for the division by 6
    "dpo": (log(2), [-0.3] * 3 + [0.3] * 3, {"pair_accuracy": 3.0, "margin": 0.0}),
    # (0 - 5)^2, whose gradient is -2 * 5 / 3 per token
    "ipo": (25.0, [-20] * 3 + [20] * 3, {"pair_accuracy": 3.0, "margin": 0.0}),
    # -log sigmoid(-1), gradient -sigmoid(1) * 2 / 3 per token
    "simpo": (log(1 + exp(1)), [-4 * _sigmoid(1)] * 3 + [4 * _sigmoid(1)] * 3, {"pair_accuracy": 3.0, "margin": 0.0}),
    # z = 0 and r = ln 0.75 for both: lead +-0.1 ln 0.75
    "kto": (0.5 * (1 - _sigmoid(0.1 * log(0.75)) + 1 - _sigmoid(-0.1 * log(0.75))),
            [s * 0.3 * _sigmoid(0.1 * log(0.75)) * (1 - _sigmoid(0.1 * log(0.75))) for s in _PLAIN],
            {"label_accuracy": 3.0, "margin": 0.0}),
}  # fmt: skip
GOLDEN |= {"gae": GOLDEN["grpo"], "dapo": GOLDEN["grpo"], "maxrl": GOLDEN["grpo"], "ppo": GOLDEN["reinforce_pp"]}
# Their advantages differ, their losses do not.
GOLDEN["bradley_terry"] = (log(2), [-3] * 3 + [3] * 3, {"pair_accuracy": 3.0, "margin": 0.0})  # two equal scores
_MEAN = -1 + log(0.75) / 3  # mean log-probability of both answers
_ODDS = 1 / (1 - exp(_MEAN))  # d log odds / d mean log-probability
GOLDEN["orpo"] = (-_MEAN + 0.1 * log(2), [-2 - 0.1 * _ODDS] * 3 + [0.1 * _ODDS] * 3, {"pair_accuracy": 3.0, "margin": 0.0})


def test_golden_example(algorithm: Algorithm) -> None:
    assert algorithm.name in GOLDEN, f"write a golden example for {algorithm.name}"
    loss, gradients, metrics = GOLDEN[algorithm.name]
    new = torch.tensor(_LOGPROBS, requires_grad=True)
    b = TokenBatch(new, torch.full((6,), -1.0), torch.tensor([1.0] * 3 + [-1.0] * 3), torch.tensor([0] * 3 + [1] * 3),
                   torch.full((6,), -1.0), new)
    got, sums = algorithm.loss(b, Total(6, 2))
    assert float(got.detach()) == pytest.approx(loss, abs=1e-6)
    torch.testing.assert_close(gradient(algorithm, b, Total(6, 2)), torch.tensor(gradients) / 6, atol=1e-6, rtol=1e-5)
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
        ("rloo", {}, [1.0, 0.0, 0.0, 0.0], [1.0, -1 / 3, -1 / 3, -1 / 3]),
        ("dapo", {}, [3.0, None, 1.0], [1.0, None, -1.0]),
        ("gspo", {}, [3.0, None, 1.0], [1.0, None, -1.0]),
        ("cispo", {}, [3.0, None, 1.0], [1.0, None, -1.0]),
        ("grpo_paper", {}, [3.0, None, 1.0], [1.0, None, -1.0]),
        ("dr_grpo", {}, [3.0, None, 1.0], [1.0, None, -1.0]),
        ("maxrl", {}, [1.0, 0.0, 0.0, 0.0], [3.0, -1.0, -1.0, -1.0]),
        ("reinforce_pp", {"baseline": "group"}, [3.0, None, 1.0], [1.0, None, -1.0]),
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
    if algorithm.critic and not algorithm.paired:
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
        assert (float(gradient(algorithm, b, Total(1, 1))) != 0) == pushes
        assert float(algorithm.loss(b, Total(1, 1))[1]["clip_fraction"]) == (not pushes)
