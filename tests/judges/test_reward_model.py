"""Reward models as judges, against transformers called directly on one text at a time, without padding.

Run: .venv/bin/python -m pytest tests/judges/test_reward_model.py   (about 8 s on one core)
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import real
import reward_models
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from outdo import plugins
from outdo.errors import UserError
from outdo.judges import reward_model
from outdo.judges.base import Judge
from outdo.judges.function import FunctionJudge
from outdo.judges.reward_model import RewardModel
from outdo.plugins import Plugin
from outdo.types import Finish, Trajectory

WORDS = ["4", "five", "", "the answer is four, as two and two are " + "four " * 40, "44", "4"]


def reply(words: str, chat: bool = False, **columns: Any) -> Trajectory:
    prompt: Any = [{"role": "user", "content": "2+2?"}] if chat else "2+2?"
    completion: Any = [{"role": "assistant", "content": words}] if chat else words
    info = {"prompt": prompt, "completion": completion, "answer": "4", **columns}
    return Trajectory("p/0", 0, np.arange(6), np.arange(6) > 1, np.zeros(6, np.float32), 3, Finish.STOP, info)


def make(**options: Any) -> RewardModel:
    plugin = Plugin(name="reward_model", **{"model": str(reward_models.folder()), **options})
    judge = plugins.make("judges", plugin, Judge)  # type: ignore[type-abstract]
    assert isinstance(judge, RewardModel)
    return judge


def directly(texts: list[str]) -> list[float]:
    """As TRL's trainer does, but one text at a time."""
    folder = reward_models.folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    with torch.inference_mode():
        return [float(model(**tokenizer(t, return_tensors="pt", add_special_tokens=False)).logits[0, 0]) for t in texts]


def values(judge: Judge, batch: list[Trajectory]) -> list[float | None]:
    return [s.value for s in judge.score(batch)]


def exact(completions, answer, **kwargs):  # type: ignore[no-untyped-def]
    return [float(c == a) for c, a in zip(completions, answer, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("batch_tokens", [1, 70, 8192])
def test_scores_are_transformers_own(batch_tokens: int) -> None:
    want = directly(["2+2?" + w for w in WORDS])
    assert max(want) - min(want) > 0.5, "it tells texts apart"
    got = values(make(batch_tokens=batch_tokens), [reply(w) for w in WORDS])
    assert got == pytest.approx(want, abs=1e-5) and got[0] == got[-1], "equal texts score equally to the bit"


def test_messages_go_through_the_reward_models_own_template(tmp_path: Path) -> None:
    chats = [[{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": w}] for w in WORDS]
    want = directly([real.tokenizer().apply_chat_template(c, tokenize=False) for c in chats])
    batch = [reply(w, chat=True) for w in WORDS]
    assert values(make(), batch) == pytest.approx(want, abs=1e-5)

    other = shutil.copytree(reward_models.folder(), tmp_path / "other")
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer.save_pretrained(other)
    assert values(make(model=str(other)), batch) == pytest.approx(directly(["2+2?" + w for w in WORDS]), abs=1e-5)
    tokenizer.chat_template = None
    bare = RewardModel.of(reward_models.model(), tokenizer)
    with pytest.raises(UserError, match="has no chat template and the prompts are messages"):
        bare.score(batch)
    assert len(values(bare, [reply("4")])) == 1


def test_a_tokenizer_without_padding_is_padded_as_in_trl() -> None:
    """With the end token, in tokenizer and model alike: text that the policy did not end scores as alone."""
    tokenizer = AutoTokenizer.from_pretrained(reward_models.folder())
    tokenizer.pad_token = None
    judge = RewardModel.of(reward_models.model(), tokenizer)
    assert values(judge, [reply(w) for w in WORDS]) == pytest.approx(directly(["2+2?" + w for w in WORDS]), abs=1e-5)
    assert judge.model.config.pad_token_id == tokenizer.eos_token_id


def test_what_has_no_score() -> None:
    judge = make(max_tokens=20)
    scores = judge.score([reply("4"), reply("long " * 30), reply("5")])
    assert scores[1].value is None and "reads 1 to 20 tokens and this text has 3" in scores[1].reason
    assert None not in (scores[0].value, scores[2].value)
    assert "reads 1 to 256" in make().score([reply("long " * 300)])[0].reason
    broken = reward_models.model()
    with torch.no_grad():
        broken.score.weight.fill_(float("nan"))
    (score,) = RewardModel.of(broken, real.tokenizer()).score([reply("4")])
    assert score.value is None and score.reason.endswith("gave nan")


def test_flops_are_counted() -> None:
    """Matrices exactly; attention as causal, where torch counts the whole square. Padding and repeats cost nothing."""
    model = reward_models.model()
    ids = torch.arange(9)[None]
    model.config._attn_implementation = "eager"
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    T, layers, width = 9, 2, 32
    square = 4 * layers * width * T * T
    assert reward_model.flops(model, T) == counter.get_total_flops() - square + 4 * layers * width * T * (T + 1) // 2
    judge = make()
    judge.score([reply(w) for w in WORDS])
    lengths = {len(real.tokenizer()("2+2?" + w)["input_ids"]) for w in WORDS}
    assert len(lengths) >= 3 and judge.spent_flops() == pytest.approx(
        sum(reward_model.flops(model, len(real.tokenizer()("2+2?" + w)["input_ids"])) for w in {*WORDS}))
    assert judge.spent_flops() == 0.0
    judge.score([reply(w) for w in WORDS])
    assert judge.spent_flops() == 0.0, "asked the same again"


def test_among_functions() -> None:
    path = str(reward_models.folder())
    want = np.array(directly(["2+2?" + w for w in WORDS]))
    right = np.array([float(w == "4") for w in WORDS])
    batch = [reply(w) for w in WORDS]
    for entry in (path, make(), RewardModel.of(AutoModelForSequenceClassification.from_pretrained(path))):
        judge = FunctionJudge.of([exact, entry], weights=[2.0, -0.5])
        assert values(judge, batch) == pytest.approx((2 * right - want / 2).tolist(), abs=1e-5)
        assert f"exact (TRL, weight 2) + {Path(path).name} (reward model, weight -0.5)" in judge.describe()
        assert judge.spent_flops() > 0 == judge.spent_flops()
        assert judge.memory_bytes() == 4 * reward_models.model().num_parameters(), "what the pre-flight counts"
    both = FunctionJudge.of([exact, make(max_tokens=20)]).score([reply("4"), reply("long " * 30)])
    assert both[0].value is not None and both[1].value is None and "reads 1 to 20 tokens" in both[1].reason
    recipe = plugins.make("judges", Plugin(name="function", functions=[f"{__file__}:exact", path]), Judge)  # type: ignore[type-abstract]
    assert values(recipe, batch) == pytest.approx((right + want).tolist(), abs=1e-5)


@pytest.mark.slow
def test_what_is_no_reward_model(tmp_path: Path) -> None:
    for options, message in (
        ({"model": ""}, "has no model; set model ="),
        ({"model": str(tmp_path / "no")}, "does not exist|is no folder here"),
        ({"model": str(tmp_path)}, "cannot be loaded as a reward model|no tokenizer"),
        ({"model": str(real.smollm2())}, "is no reward model: its config.json says LlamaForCausalLM"),
    ):
        with pytest.raises(UserError, match=message):
            make(**options).score([reply("4")])
    two = tmp_path / "two"
    reward_models.model(labels=2).save_pretrained(two)
    real.tokenizer().save_pretrained(two)
    with pytest.raises(UserError, match="cannot be loaded as a reward model"):
        make(model=str(two)).score([reply("4")])
    three = tmp_path / "three"
    reward_models.model(labels=3).save_pretrained(three)
    for folder, message in ((three, "is a classifier of 3 labels"), (real.smollm2(), "is no reward model")):
        with pytest.raises(UserError, match=message):
            make(model=str(folder)).score([])  # before any weights are read
    with pytest.raises(UserError, match="one label"):
        RewardModel.of(reward_models.model(labels=2), real.tokenizer()).score([reply("4")])
    with pytest.raises(UserError, match=r"RewardModel\.of\(model, tokenizer\)"):
        RewardModel.of(reward_models.model()).score([reply("4")])
