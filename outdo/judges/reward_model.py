"""A reward model as the judge: a transformers sequence-classification model with one label, as TRL takes it in reward_funcs.

It reads prompt and completion in its own tokenizer and chat template, and its one logit is the score. One that was trained
on episodes that are no text reads their tokens, up to the policy's last one. Texts of like length are read together; the same
text is read once, so that equal completions score equally to the bit.
"""

from __future__ import annotations

import contextlib
import functools
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean, pvariance
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging

from outdo import plugins
from outdo.errors import UserError, check
from outdo.judges.base import Judge, Options, unjudgeable
from outdo.models import fetch
from outdo.plugins import Plugin
from outdo.system import files
from outdo.system.progress import say
from outdo.types import Score, Trajectory

READS_TOKENS = "outdo_reads_tokens"  # in config.json of one that was trained on episodes that are no text
TRAINED = "reward_model"  # folder of the classifier in the last checkpoint of a stage that trains one


class RewardModel(Judge):
    """The logit of a sequence classifier. Texts longer than it can read, and logits that are no numbers, have no score."""

    name = "reward_model"

    class Config(Options):
        """Options of reward_model."""

        model: str = ""  # a sequence-classification model with one label: a folder, a hub id, RUN:stage, "stage:<name>"
        models: tuple[str, ...] = ()  # several, in place of model: their scores are put together as `combine` says
        # "min" is worst-case optimisation, "uncertain" takes `penalty` times the variance off the mean (2310.02743).
        combine: Literal["mean", "min", "uncertain"] = "mean"
        penalty: float = Field(default=0.1, ge=0)
        max_tokens: int | None = Field(default=None, ge=1)  # longer texts have no score; None: the model's context
        batch_tokens: int = Field(default=8192, ge=1)  # padded tokens per forward pass; less memory, the same scores
        dtype: Literal["fp32", "bf16"] = "fp32"

    config: Config

    def __init__(self, config: Config | None = None, model: Any = None,
                 tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        super().__init__(config)
        self._model, self._tokenizer = model, tokenizer
        self._flops = 0.0
        self._known: dict[str, Score] = {}  # of the last call: the same judge is often asked twice, as judge and as gold
        c = self.config
        check(not (c.model and c.models), "judge reward_model: give model or models, not both")
        self._members = [RewardModel(c.model_copy(update={"model": m, "models": ()})) for m in c.models]

    @classmethod
    def of(cls, model: Any, tokenizer: PreTrainedTokenizerBase | None = None, **options: Any) -> Self:
        """A judge from a model in memory. tokenizer: None is the one that lies with the model's checkpoint."""
        check(hasattr(model, "config"), f"{type(model).__name__} is no reward model: give one of transformers' classifiers")
        options["model"] = str(model.config.name_or_path)
        return cls(plugins.configured("judges", Plugin(name=cls.name, **options), cls), model, tokenizer)

    def _together(self, scores_MT: Sequence[Sequence[Score]]) -> list[Score]:
        """Of all members, as `combine` says; without a score where one member has none."""
        out = []
        for members in zip(*scores_MT, strict=True):
            failed = next((s for s in members if s.value is None), None)
            if failed is not None:
                out.append(failed)
                continue
            values = [s.value for s in members if s.value is not None]
            spread = pvariance(values)
            value = {"mean": fmean(values), "min": min(values), "uncertain": fmean(values) - self.config.penalty * spread}
            said = f"{self.config.combine} of {', '.join(f'{v:.4g}' for v in values)}"
            out.append(Score(value[self.config.combine], said, {f"model_{i}": v for i, v in enumerate(values)}))
        return out

    @property
    def label(self) -> str:
        """The model's own name, for readers."""
        return Path(self.config.model).name or self.name

    def describe(self) -> str:
        """Which model scores."""
        if self._members:
            return f"reward = the {self.config.combine} of the logits of {', '.join(self.config.models)}"
        return f"reward = the logit of {self.config.model}"

    def spent_flops(self) -> float:
        """See `Judge.spent_flops`."""
        spent, self._flops = self._flops, 0.0
        return spent + sum(m.spent_flops() for m in self._members)

    def memory_bytes(self) -> float:
        """See `Judge.memory_bytes`."""
        weights = self._model.parameters() if self._model is not None else ()
        return float(sum(p.numel() * p.element_size() for p in weights)) + sum(m.memory_bytes() for m in self._members)

    def score(self, trajectories: Sequence[Trajectory]) -> list[Score]:
        """See `Judge.score`. Raises UserError for a checkpoint that is no reward model."""
        if self._members:
            return self._together([m.score(trajectories) for m in self._members])
        if not trajectories and self.config.model.startswith("stage:"):
            return []  # it is trained before it is asked
        if self._model is None:
            _check_classifier(self._folder, self._who)
        tokenizer = self.tokenizer
        longest = self.config.max_tokens or min(_context(self._settings), tokenizer.model_max_length)
        of_tokens = getattr(self._settings, READS_TOKENS, False)
        scores = [unjudgeable(t, *(() if of_tokens else ("prompt", "completion"))) for t in trajectories]
        texts, ids = dict[int, str](), dict[str, list[int]]()
        for i, t in enumerate(trajectories):
            if scores[i] is None and of_tokens:
                texts[i] = t.token_ids.tobytes().hex()
                ids[texts[i]] = t.token_ids[: int(np.flatnonzero(t.mask).max(initial=-1)) + 1].tolist()
                check(max(ids[texts[i]], default=0) < self._settings.get_text_config().vocab_size, f"{self._who} reads "
                      "tokens of another vocabulary than this task's; train one from the model that plays: kind = 'reward_model'")
            elif scores[i] is None:
                try:
                    texts[i] = text_of(tokenizer, t.info["prompt"], t.info["completion"])
                except Exception as e:  # templates raise what they like
                    check(bool(tokenizer.chat_template), f"{self._who} has no chat template and the prompts are messages; give "
                          "its tokenizer one, or prompts that are strings")
                    scores[i] = Score(None, f"{self.label}: its chat template raised {type(e).__name__}: {str(e)[:80]}")
        ids |= {text: tokenizer(text, add_special_tokens=False)["input_ids"] for text in dict.fromkeys(texts.values())
                if text not in ids}
        found = {text: self._known[text] for text in ids if text in self._known}
        for text, tokens in ids.items():
            if not 0 < len(tokens) <= longest:
                found[text] = Score(None, f"{self.label} reads 1 to {longest} tokens and this text has {len(tokens)}")
        for batch in _batches({k: v for k, v in ids.items() if k not in found}, self.config.batch_tokens, self._pad_id):
            for text, value in zip(batch, self._logits([ids[text] for text in batch]), strict=True):
                finite = math.isfinite(value)
                found[text] = Score(value, f"{self.label} {value:.4g}") if finite else Score(None, f"{self.label} gave {value}")
        self._known = found
        return [s if s is not None else found[texts[i]] for i, s in enumerate(scores)]

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The reward model's own. Raises UserError if it cannot be found."""
        if self._tokenizer is None:
            check(self._model is None or bool(self.config.model), "a reward model in memory says nowhere which tokenizer is its "
                  "own; give RewardModel.of(model, tokenizer)")
            self._tokenizer = _tokenizer(self._folder)
        return self._tokenizer

    @property
    def model(self) -> Any:
        """Loaded when it is first needed, and shared by all judges of the same checkpoint. Raises UserError."""
        if self._model is None:
            self._model = _loaded(self._folder, self.config.dtype)
        return self._model.eval()

    @property
    def _folder(self) -> str:
        check(bool(self.config.model), "judge reward_model has no model; set model = a folder or a hub id")
        folder = fetch.resolve(self.config.model, say)
        trained = folder / TRAINED  # by a stage of kind reward_model
        return str(trained if trained.is_dir() else folder)

    @property
    def _settings(self) -> Any:
        return self._model.config if self._model is not None else _config(self._folder)

    @property
    def _who(self) -> str:
        return f"reward model {self.config.model!r}"

    @property
    def _pad_id(self) -> int | None:
        """What fills short rows, by which the model finds their end: TRL's choice. None: one text at a time."""
        tokenizer = self.tokenizer
        chosen: int | None = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        return chosen

    @torch.inference_mode()
    def _logits(self, ids: Sequence[list[int]]) -> list[float]:
        model, pad = self.model, self._pad_id
        model.config.get_text_config().pad_token_id = pad
        width = max(map(len, ids))
        tokens = torch.full((len(ids), width), pad or 0)
        mask = torch.zeros_like(tokens)
        for row, one in enumerate(ids):
            tokens[row, : len(one)], mask[row, : len(one)] = torch.tensor(one), 1
        device = next(model.parameters()).device
        logits = model(input_ids=tokens.to(device), attention_mask=mask.to(device)).logits
        check(logits.shape == (len(ids), 1), f"{self._who} gave logits of shape {tuple(logits.shape)} for {len(ids)} texts; a "
              "reward model has one label")
        self._flops += sum(flops(model, len(one)) for one in ids)
        return [float(v) for v in logits[:, 0].float().tolist()]


def flops(model: Any, tokens: int) -> float:
    """One forward pass over a text: all matrices but the embedding, and causal attention. Padding is not counted."""
    c = model.config.get_text_config()
    embedding = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding))
    linear: int = sum(p.numel() for p in model.parameters() if p.dim() == 2) - embedding
    width: int = (getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads) * c.num_attention_heads
    return 2.0 * linear * tokens + 4.0 * int(c.num_hidden_layers) * width * (tokens * (tokens + 1) // 2)


def _batches(ids: dict[str, list[int]], batch_tokens: int, pad: int | None) -> list[list[str]]:
    """Texts of like length together, up to batch_tokens with their padding."""
    out: list[list[str]] = []
    for text in sorted(ids, key=lambda t: -len(ids[t])):  # the longest comes first and sets the width
        if not out or pad is None or (len(out[-1]) + 1) * len(ids[out[-1][0]]) > batch_tokens:
            out.append([])
        out[-1].append(text)
    return out


def text_of(tokenizer: PreTrainedTokenizerBase, prompt: Any, completion: Any) -> str:
    """Prompt and completion as a reward model reads them, in training (stages/reward_model.py) as here."""
    if isinstance(prompt, str):
        return prompt + str(completion)
    return str(tokenizer.apply_chat_template([*prompt, *completion], tokenize=False))


def _context(settings: Any) -> int:
    return int(getattr(settings.get_text_config(), "max_position_embeddings", None) or sys.maxsize)


@functools.lru_cache(8)
def _config(folder: str) -> Any:
    try:
        return AutoConfig.from_pretrained(folder)
    except Exception as e:
        raise _no_model(folder, e) from None


def _check_classifier(folder: str, who: str) -> None:
    """Raise UserError where config.json says that the weights, which need not be read for it, are no reward model's."""
    settings = _config(folder)
    named = list(getattr(settings, "architectures", None) or ())
    check(not named or any(n.endswith("ForSequenceClassification") for n in named), f"{who} is no reward model: its config.json "
          f"says {', '.join(named)}; give a sequence-classification model with one label, or train one (kind = 'reward_model')")
    written = files.read_json(Path(folder) / "config.json")
    labels = len(written.get("id2label") or ()) or written.get("num_labels", 1)
    check(labels == 1, f"{who} is a classifier of {labels} labels; a reward model has one: give another, or train one (kind = "
          "'reward_model')")


@functools.lru_cache(8)
def _tokenizer(folder: str) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as e:
        raise UserError(f"reward model {folder!r} has no tokenizer that transformers can read ({type(e).__name__}: "
                        f"{str(e).splitlines()[0]}); save the tokenizer that it was trained with into its folder") from None


@functools.lru_cache(4)
def _loaded(folder: str, dtype: str) -> Any:
    """The classifier, on the GPU if there is one. Raises UserError, also where its head would be made of random numbers."""
    try:
        with quiet():
            model, info = AutoModelForSequenceClassification.from_pretrained(
                folder, num_labels=1, dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[dtype], output_loading_info=True)
    except Exception as e:
        raise _no_model(folder, e) from None
    missing = sorted(info["missing_keys"])
    check(not missing, f"{folder!r} is no reward model: it has no {', '.join(missing[:3])}, and random weights would score; "
          "train one from it first (AutoModelForSequenceClassification with num_labels=1)")
    if torch.cuda.is_available():
        model = model.to("cuda")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """transformers says errors alone, and shows no bars."""
    loud = logging.get_verbosity()
    logging.set_verbosity(40)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(loud)
        logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _no_model(folder: str, e: Exception) -> UserError:
    said = " ".join(str(e).split())
    return UserError(f"{folder!r} cannot be loaded as a reward model ({type(e).__name__}: {said[:200]}); it must be a "
                     "sequence-classification model with one label")
