"""What the stages of a recipe start from: checkpoints found, their tokenizer and sizes checked, models made and loaded."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from outdo.errors import check
from outdo.models import adapt, fetch, hf
from outdo.models.base import LanguageModel, Sizes
from outdo.models.decoder import Decoder, DecoderConfig
from outdo.recipe import Recipe
from outdo.system import randomness
from outdo.system.progress import say
from outdo.tasks.base import Task


def roots(recipe: Recipe) -> dict[str, Path]:
    """The checkpoints that stages or their tokenizer start from, as they are written -> their folders, fetched if need be.

    Raises UserError.
    """
    written = [s.source for n, s in recipe.stage.items() if recipe.parent(n) is None] + [recipe.model.tokenizer]
    return {source: fetch.resolve(source, say) for source in dict.fromkeys(written) if source is not None}


def tokenizer_of(task: Task, folders: Collection[Path]) -> PreTrainedTokenizerBase:
    """The one tokenizer of all these checkpoints, which the task is given; the task's own if there are none."""
    if not folders:
        return task.tokenizer()
    (first, tokenizer), *others = [(f, hf.load_tokenizer(f)) for f in folders]
    for folder, other in others:
        check(other.get_vocab() == tokenizer.get_vocab(), f"{str(first)!r} and {str(folder)!r} have different tokenizers; all "
              "stages of a recipe share one: put the two into recipes of their own")
    task.bind(tokenizer)
    own = task.tokenizer()
    check(own.get_vocab() == tokenizer.get_vocab(), f"checkpoint {str(first)!r} knows {len(tokenizer)} tokens and task "
          f"{task.name} has {len(own)} of its own; it was made for another task")
    return tokenizer


def check_fits(sizes: Sizes, task: Task, name: str, plays: bool = True) -> None:
    """A model must know the task's tokens and, if it plays, read its longest episode. Raises UserError."""
    words = len(task.tokenizer())
    check(sizes.vocab_size >= words, f"checkpoint {name!r} has weights for {sizes.vocab_size} tokens and its tokenizer "
          f"knows {words}; they do not belong together")
    context = sizes.max_position_embeddings
    check(not plays or context >= task.max_tokens, f"checkpoint {name!r} reads at most {context} tokens and an episode of "
          f"{task.name} needs {task.max_tokens}; shorten the task")


def skeleton(recipe: Recipe, name: str, task: Task) -> LanguageModel:
    """A stage's model without its weights (on the meta device), to count and to check. Raises UserError."""
    source = recipe.checkpoint(name)
    if source is None:
        config = decoder_config(recipe, task, len(task.tokenizer()))
        with torch.device("meta"):
            return adapted(recipe, name, Decoder(config))
    model = hf.skeleton(fetch.resolve(source, say))
    task.fit(model.config.max_position_embeddings)
    check_fits(model.config, task, source, recipe.plays)
    return adapted(recipe, name, model)


def adapted(recipe: Recipe, name: str, model: LanguageModel) -> LanguageModel:
    """The model with what the stage says about which of its parameters train. Raises UserError."""
    stage = recipe.stage[name]
    if stage.lora is not None:
        generator = torch.Generator().manual_seed(randomness.key(recipe.seed, name, "lora"))
        adapt.attach(model, stage.lora.rank, stage.lora.alpha, stage.lora.targets, generator, f"stage.{name}.lora.targets")
    if stage.freeze:
        adapt.freeze(model, stage.freeze, f"stage.{name}.freeze")
    return model


def decoder_config(recipe: Recipe, task: Task, vocab_size: int) -> DecoderConfig:
    """Sizes of the model, checked against the task."""
    m = recipe.model
    check(m.width % m.heads == 0, f"model.width = {m.width} is not divisible by model.heads = {m.heads}")
    kv = m.kv_heads or m.heads
    check(m.heads % kv == 0, f"model.heads = {m.heads} is not divisible by model.kv_heads = {kv}")
    check(m.width // m.heads % 2 == 0, f"model.width / model.heads = {m.width // m.heads} is odd; rotary positions "
                                       "need an even head size")
    if m.context:
        task.fit(m.context)
    context = m.context or task.max_tokens
    check(not recipe.plays or context >= task.max_tokens, f"model.context = {context} is shorter than the longest "
          f"{task.name} episode, {task.max_tokens} tokens; raise model.context or shorten the task")
    ffn = m.ffn or -(-m.width * 8 // 3 // 8) * 8
    return DecoderConfig(vocab_size, m.width, ffn, m.depth, m.heads, kv, context, m.rope_theta,
                         tie_word_embeddings=m.tie_embeddings)


def model_of(recipe: Recipe, name: str, task: Task, folder: Path) -> LanguageModel:
    """What a stage starts from: its source stage's last checkpoint, the checkpoint that it names, or random weights.

    folder: the run's. Raises UserError.
    """
    source, parent = recipe.stage[name].source, recipe.parent(name)
    if source is not None:
        model = hf.load(fetch.last_checkpoint(folder, parent) if parent else fetch.resolve(source, say))
        if parent is None and not Path(source).exists() and "/" in source:
            model.source = source  # of the hub: an adapter's base that others can find
        return adapted(recipe, name, model)
    model = Decoder(decoder_config(recipe, task, len(task.tokenizer())))
    model.init_weights(torch.Generator().manual_seed(randomness.key(recipe.seed, "weights")))
    return adapted(recipe, name, model)
