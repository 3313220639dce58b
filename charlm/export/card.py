"""Write the model card: what the model is, how good it is and how that was measured, and how to use it."""

from collections.abc import Iterator
from math import log
from pathlib import PurePath

from charlm import __version__
from charlm.data.text_config import TextConfig
from charlm.evaluation.bootstrap import plus_minus
from charlm.export.decoder import PlainDecoder
from charlm.inference.context import ContextRule
from charlm.terminal import one_line
from charlm.training.state import read_state

HEAD = """---
library_name: transformers
pipeline_tag: text-generation
tags:
- character-level
- charlm
---
"""
USE = """## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained("FOLDER"), AutoTokenizer.from_pretrained("FOLDER")
ids = tokenizer("PROMPT", return_tensors="pt").input_ids
print(tokenizer.decode(model.generate(ids)[0]))
```
"""


def model_card(decoder: PlainDecoder) -> str:
    """Return the model card as Markdown. The licence is left to whoever publishes the model."""
    parts = [HEAD, f"# {one_line(decoder.name)}\n", *_model(decoder), *_figures(decoder), *_limits(decoder)]
    prompt = one_line("".join(char for char in decoder.vocabulary.chars if char.isalpha())[:1] or "a")
    parts += [USE.replace("PROMPT", prompt), _licence()]
    return "\n".join(parts)


def _model(decoder: PlainDecoder) -> Iterator[str]:
    snapshot, shape, vocabulary = decoder.snapshot, decoder.shape, decoder.vocabulary
    label = one_line(PurePath(snapshot.run.corpus.label).name or snapshot.run.corpus.label)
    n = sum(weight.numel() for weight in snapshot.weights.values())
    yield (
        f"A language model that reads and writes one {vocabulary.unit_noun} at a time, trained with charlm {__version__} on "
        f"{label}: {snapshot.run.corpus.train_chars:,} characters to train on, {snapshot.step:,} steps.\n"
    )
    yield f"- {n:,} parameters: {shape.n_layer} layers of width {shape.n_embd}, {shape.n_head} heads"
    yield f"- {vocabulary.n_symbols:,} symbols; every other character is spelled in bytes of UTF-8"
    yield f"- context: {shape.block_size:,} {vocabulary.unit_noun}s\n"


def _figures(decoder: PlainDecoder) -> Iterator[str]:
    snapshot = decoder.snapshot
    last = read_state(snapshot.state).last_evaluation
    yield "## Figures\n"
    if last is None:
        yield "It was never evaluated.\n"
        return
    rule = ContextRule.of_model(decoder.config).describe(decoder.vocabulary.unit_noun)
    held_out = snapshot.run.corpus.held_out_chars
    yield "| | bits per character |\n|---|---|"
    yield f"| this model | {plus_minus(last.nats_per_char, last.standard_error)} |"
    if last.baseline_nats_per_char is not None:
        yield f"| Kneser-Ney n-grams of its training text | {last.baseline_nats_per_char / log(2):.3f} |"
    yield (
        f"\nMeasured by charlm at step {last.step:,} on {last.chars:,} of {held_out:,} held-out characters of the same text, each predicted "
        f"once, with a context of {rule}. ± is one standard error, over blocks of text. The temperature that was fitted after training, dataset shift included, "
        f"{decoder.temperature:.4f}, is part of the weights.\n"
    )


def _limits(decoder: PlainDecoder) -> Iterator[str]:
    shape, vocabulary = decoder.shape, decoder.vocabulary
    yield "## What differs from charlm\n"
    yield (
        f"- It needs something to begin with. charlm draws a first {vocabulary.unit_noun} by its frequency."
        if vocabulary.end is None
        else "- A document begins with the end of the one before, `<|endoftext|>`, which no tokenizer adds for you."
    )
    yield (
        f"- It was trained on {shape.block_size:,} {vocabulary.unit_noun}s at a time. Where charlm reads the last half of "
        "them again and goes on, other programs go beyond them, where it predicts badly, or stop."
    )
    yield (
        "- Bytes that training never saw can be read and are never written. charlm gives all of them together 2^-16."
    )
    changes = changes_of(decoder.snapshot.run.text)
    if changes:
        yield f"- Its training text was changed, and what it reads has to be changed in the same way: {changes}."
    yield (
        f"- `hidden_size` is {shape.width}, for a model of width {shape.n_embd}: one channel more holds a constant, which keeps "
        "untrained bytes from being predicted, and the others are zeros.\n"
    )


def changes_of(text: TextConfig) -> str:
    """Say how the text was normalized before training, which other programs' tokenizers do not do; empty if it was not."""
    changes = {
        f"normal form {(text.normalize or '').upper()}": text.normalize is not None,
        "line ends as line feeds": text.newlines == "lf",
        "lower case": text.lowercase,
        "one space for each run of spaces and tabs": text.collapse_spaces,
    }
    return ", ".join(words for words, made in changes.items() if made)


def _licence() -> str:
    return (
        "## Licence\n\nNone is given. Whoever publishes this model chooses one, with the licence of the training text in mind; the "
        "vocabulary and the weights are made from it.\n"
    )
