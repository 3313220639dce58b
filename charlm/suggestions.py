"""What a user probably meant: names that other tools use, in a table, before letters are compared."""

import re
from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches

# Values: options of charlm without their dashes, the best first, separated by `|`. `a + b` offers both, and
# after the name may stand a value. The first that the command has is suggested. What begins with `=` is a
# sentence, for what charlm does in another way. A key `COMMAND NAME` holds for one command only.
_FILES = "=name files without an option, as in: charlm train FILE"
_NO_GPU = "device cuda|=only training uses a GPU; every other command computes on the CPU"
_STDOUT = "out|per-char|=results go to standard output; write them to a file with > FILE"
_TIME_OR_STEPS = "steps + time"
_CHARACTERS = "=charlm needs no tokenizer: its symbols are characters, or bytes with --units bytes"
_ONE_MACHINE = "=charlm trains on one device"
_NO_LOGGER = "=charlm writes all metrics to metrics.jsonl in the run's folder, and plots them in report.html"
_DETAILS = "=there is no verbose mode: charlm reports everything on standard error"
_PROMPT_FILE = "prompt-file"

OPTIONS: dict[str, str] = {
    # nanoGPT, minGPT
    "max-iters": "steps", "iters": "steps", "iterations": "steps", "num-iters": "steps", "n-iters": "steps", "num-iterations": "steps", "lr-decay-iters": "steps", "warmup-iters": "schedule", "decay-lr": "schedule",
    "warmup-steps": "schedule", "warmup": "schedule", "num-warmup-steps": "schedule", "warmup-ratio": "schedule", "lr-scheduler": "schedule", "lr-scheduler-type": "schedule", "lr-decay": "schedule", "lr-schedule": "schedule",
    "scheduler": "schedule", "min-lr": "schedule", "learning-rate-decay": "schedule", "lr": "learning-rate", "alpha": "learning-rate", "rate": "learning-rate", "base-lr": "learning-rate",
    "max-lr": "learning-rate", "learningrate": "learning-rate", "step-size": "learning-rate", "init-from": "from|run", "out-dir": "checkpoints", "compile-model": "compile on",
    "torch-compile": "compile on", "no-compile": "compile off", "eval-interval": "eval-every", "log-interval": "eval-every", "eval-iters": "eval-chars", "eval-only": "=to evaluate a run: charlm eval --run RUN",
    "always-save-checkpoint": "save-every", "gradient-accumulation-steps": "grad-accum", "accumulation": "grad-accum", "clip": "grad-clip", "ngrams": "ngram-embeddings", "portable": "plain", "counts": "prior", "muon-rate": "muon-lr", "counts-order": "prior-order", "accumulate-grad-batches": "grad-accum", "accumulation-steps": "grad-accum", "micro-batch-size": "batch-size",
    "max-grad-norm": "grad-clip", "gradient-clip": "grad-clip", "clip-grad": "grad-clip", "gradient-clip-val": "grad-clip",
    "clip-norm": "grad-clip", "clip-grad-norm": "grad-clip", "grad-norm": "grad-clip", "beta1": "optimizer", "beta2": "optimizer", "optim": "optimizer", "optimiser": "optimizer", "opt": "optimizer", "dtype": "precision", "bias": "=the model has no biases",
    "wandb": _NO_LOGGER, "wandb-log": _NO_LOGGER, "wandb-project": _NO_LOGGER, "wandb-run-name": "run", "tensorboard": _NO_LOGGER,
    "report-to": _NO_LOGGER, "logging-dir": _NO_LOGGER, "log-dir": _NO_LOGGER, "log-file": _NO_LOGGER, "tb": _NO_LOGGER, "backend": _ONE_MACHINE, "world-size": _ONE_MACHINE, "nproc-per-node": _ONE_MACHINE, "gpus": _ONE_MACHINE,
    "local-rank": _ONE_MACHINE, "num-gpus": _ONE_MACHINE, "devices": "device", "accelerator": "device", "ddp": _ONE_MACHINE,
    # Hugging Face: Trainer, generate, PEFT
    "epochs": _TIME_OR_STEPS, "epoch": _TIME_OR_STEPS, "num-epochs": _TIME_OR_STEPS, "n-epochs": _TIME_OR_STEPS, "num-train-epochs": _TIME_OR_STEPS, "max-epochs": _TIME_OR_STEPS, "train-epochs": _TIME_OR_STEPS,
    "per-device-train-batch-size": "batch-size", "per-device-eval-batch-size": "eval-chars", "train-batch-size": "batch-size", "output-dir": "checkpoints", "max-steps": "steps", "num-steps": "steps", "n-steps": "steps", "train-steps": "steps",
    "num-train-steps": "steps", "num-training-steps": "steps", "total-steps": "steps", "batches": "steps", "fp16": "precision bf16", "half": "precision bf16", "bf16": "precision bf16", "bfloat16": "precision bf16",
    "amp": "precision bf16", "mixed-precision": "precision bf16", "float16": "precision bf16", "fp32": "precision fp32", "float32": "precision fp32", "tf32": "precision", "wd": "weight-decay", "l2": "weight-decay", "decay": "weight-decay",
    "evaluation-strategy": "eval-every", "eval-strategy": "eval-every", "eval-steps": "eval-every", "eval-freq": "eval-every", "eval-frequency": "eval-every", "val-every": "eval-every", "val-interval": "eval-every", "logging-steps": "eval-every",
    "val-check-interval": "eval-every", "save-steps": "save-every", "save-interval": "save-every", "save-strategy": "save-every", "checkpoint-every": "save-every", "save-freq": "save-every", "checkpoint-interval": "save-every",
    "save-total-limit": "save-every", "overwrite-output-dir": "run", "resume-from-checkpoint": "=to resume a run: charlm resume RUN",
    "resume-from": "=to resume a run: charlm resume RUN", "resume": "=to resume a run: charlm resume RUN; charlm train --run RUN --resume-if-exists starts it if it does not exist",
    "continue": "resume-if-exists|=to resume a run: charlm resume RUN", "restore": "=to resume a run: charlm resume RUN",
    "ckpt-path": "checkpoint", "ckpt": "checkpoint", "checkpoint-path": "checkpoint", "load": "checkpoint|from", "load-from": "from|run",
    "early-stopping": "patience", "early-stop": "patience", "early-stopping-patience": "patience", "no-early-stopping": "patience 0",
    "model-name-or-path": "from|run", "model-name": "from|run", "pretrained": "from|run", "pretrained-model": "from|run", "base-model": "from|run", "init": "from|run", "finetune": "from|=to fine-tune a run: charlm train FILE --from RUN",
    "fine-tune": "from|=to fine-tune a run: charlm train FILE --from RUN", "finetune-from": "from", "start-from": "from|run", "max-seq-length": "block-size", "max-seq-len": "block-size", "seq-len": "block-size", "seq-length": "block-size",
    "sequence-length": "block-size", "max-length": "length|block-size", "n-positions": "block-size", "n-ctx": "block-size", "max-position-embeddings": "block-size", "hidden-size": "n-embd", "num-hidden-layers": "n-layer",
    "num-attention-heads": "n-head", "num-key-value-heads": "n-kv-head", "hidden-dropout-prob": "dropout", "attn-dropout": "dropout",
    "dataloader-num-workers": "threads", "num-workers": "threads", "workers": "threads", "jobs": "threads", "num-threads": "threads", "n-threads": "threads", "cpus": "threads", "nproc": "threads", "cores": "threads", "do-sample": "temperature",
    "no-cuda": "device cpu", "use-cpu": "device cpu", "use-gpu": _NO_GPU, "dataset-name": _FILES, "tokenizer": _CHARACTERS,
    "tokenizer-name": _CHARACTERS, "token": _CHARACTERS, "tokens": "length|units", "vocab-size": "min-count", "vocab": "min-count",
    "gradient-checkpointing": "grad-accum", "greedy": "temperature 0", "num-beams": "temperature 0", "typical-p": "min-p", "repetition-penalty": "=charlm has no penalty for repeats; try --min-p or a higher --temperature",
    "repeat-penalty": "=charlm has no penalty for repeats; try --min-p or a higher --temperature", "max-new-tokens": "length", "num-return-sequences": "samples", "random-seed": "seed", "manual-seed": "seed", "rng-seed": "seed",
    # char-rnn, torch-rnn
    "rnn-size": "n-embd", "num-layers": "n-layer", "layers": "n-layer", "n-layers": "n-layer", "layer": "n-layer", "depth": "n-layer",
    "nlayers": "n-layer", "num-blocks": "n-layer", "blocks": "n-layer", "primetext": "prompt", "start-text": "prompt", "start": "prompt",
    "prime-text": "prompt", "seed-text": "prompt", "prefix": "prompt", "begin": "prompt", "beginning": "prompt", "text": f"prompt|{_FILES}",
    "input-txt": _FILES, "input-h5": _FILES, "input-json": "field", "model-type": "model|mixer", "rnn": "mixer recurrent", "lstm": "mixer recurrent",
    "gru": "mixer recurrent", "arch": "mixer", "architecture": "mixer", "attention": "mixer attention", "cell": "mixer",
    "val-frac": "val", "val-split": "val", "validation-split": "val", "val-size": "val", "val-ratio": "val", "valid": "val", "validation": "val",
    "train-frac": "val", "train-split": "val", "train-ratio": "val", "test-split": "test", "test-frac": "test", "test-size": "test",
    "holdout": "val", "held-out": "val", "val-data": "val-file", "validation-file": "val-file", "valid-file": "val-file", "val-text": "val-file",
    "checkpoint-name": "run", "print-every": "eval-every", "gpuid": _NO_GPU, "gpu-id": _NO_GPU, "opencl": _NO_GPU, "wordlevel": "units", "level": "units",
    # litgpt, lit-llama, llama.cpp
    "train.max-steps": "steps", "train.max-tokens": "steps", "train.epochs": _TIME_OR_STEPS, "train.micro-batch-size": "batch-size",
    "train.global-batch-size": "batch-size", "train.save-interval": "save-every", "train.max-seq-length": "block-size", "eval.interval": "eval-every",
    "n-predict": "length", "predict": "length", "num-predict": "length", "max-tokens": "length", "new-tokens": "length", "num-tokens": "length",
    "ctx-size": "block-size", "context-size": "block-size", "context-length": "block-size", "context": "block-size|stride", "ctx": "block-size|stride",
    "context-window": "block-size", "temp": "temperature", "tau": "temperature", "reverse-prompt": "stop", "stop-sequence": "stop",
    "stop-token": "stop", "eos": "one-document|stop", "n-gpu-layers": _NO_GPU, "ngl": _NO_GPU, "checkpoint-dir": "checkpoints|checkpoint",
    "checkpoints-dir": "checkpoints", "ckpt-dir": "checkpoints", "save-dir": "checkpoints", "model-dir": "checkpoints", "runs-dir": "checkpoints", "root": "checkpoints",
    # common words
    "heads": "n-head", "num-heads": "n-head", "n-heads": "n-head", "nhead": "n-head", "head": "n-head", "nheads": "n-head", "kv-heads": "n-kv-head",
    "n-kv-heads": "n-kv-head", "hidden": "n-embd", "hidden-dim": "n-embd", "dim": "n-embd", "d-model": "n-embd", "width": "n-embd",
    "embd": "n-embd", "embed": "n-embd", "emb": "n-embd", "embedding": "n-embd", "embedding-dim": "n-embd", "embed-dim": "n-embd", "n-embed": "n-embd",
    "emb-dim": "n-embd", "embedding-size": "n-embd", "model-dim": "n-embd", "units-size": "n-embd", "batch": "batch-size", "bs": "batch-size",
    "batchsize": "batch-size", "blocksize": "block-size", "block": "block-size", "drop": "dropout", "dropout-rate": "dropout", "dropout-prob": "dropout",
    "pos": "position", "positional": "position", "positions": "position", "pos-emb": "position", "pos-encoding": "position", "position-embedding": "position",
    "positional-encoding": "position", "rope": "position rotary", "rotary": "position rotary", "alibi": "position alibi", "order": "prior-order", "ngram": "prior-order|ngram-embeddings", "ngram-order": "prior-order", "n-gram": "prior-order|ngram-embeddings",
    "num-samples": "samples", "n-samples": "samples", "nsamples": "samples", "count": "samples", "num": "samples", "number": "samples", "how-many": "samples",
    "chars": "length", "characters": "length", "len": "length", "num-chars": "length", "n-chars": "length", "size": "length|n-embd", "topk": "top-k", "topp": "top-p",
    "minp": "min-p", "nucleus": "top-p", "k": "top-k", "p": "prompt|top-p", "gpu": _NO_GPU, "cuda": _NO_GPU, "cpu": "device cpu|=this command computes on the CPU",
    "mps": "device mps", "quiet": f"quiet|{_DETAILS}", "silent": "quiet|=redirect messages with 2> FILE", "verbose": _DETAILS, "debug": "=set CHARLM_DEBUG=1 to see where an error comes from", "log-level": _DETAILS, "progress": _DETAILS,
    "no-progress": "quiet|=redirect messages with 2> FILE", "output": _STDOUT, "out": _STDOUT, "output-file": _STDOUT, "outfile": _STDOUT,
    "save": _STDOUT, "save-to": _STDOUT, "dest": f"to|{_STDOUT}", "train output": "run + checkpoints", "train out": "run + checkpoints",
    "train output-file": "run + checkpoints", "train save": "run + checkpoints", "train save-to": "run + checkpoints", "data output": "to", "data out": "to",
    "data output-dir": "to", "data dir": "to", "input": _FILES, "file": _FILES, "files": _FILES, "data": _FILES, "dataset": _FILES, "corpus": _FILES, "path": _FILES,
    "input-file": _FILES, "train-file": _FILES, "data-path": _FILES, "data-dir": _FILES, "text-file": _FILES, "data-file": _FILES, "training-file": _FILES,
    "train-data": _FILES, "train-path": _FILES, "folder": _FILES, "dir": _FILES, "directory": _FILES, "stdin": "=to read standard input, give - as the file",
    "sample input": "prompt", "sample file": _PROMPT_FILE, "sample input-file": _PROMPT_FILE, "sample text-file": _PROMPT_FILE, "sample path": _PROMPT_FILE,
    "sample dataset": "run", "sample data": "run", "sample corpus": "run", "sample files": _PROMPT_FILE, "compare file": f"on|{_FILES}",
    "name": "run", "run-name": "run", "experiment": "run", "experiment-name": "run", "exp": "run", "exp-name": "run", "project": "run", "tag": "run", "run-id": "run",
    "weights": "from|checkpoint|run", "sample model": "run", "eval model": "run", "compress model": "run", "decompress model": "run", "info model": "run", "resume model": "run", "model-path": "from|run", "model-file": "from|run", "which": "checkpoint", "step": "steps|checkpoint",
    "best": "checkpoint best", "latest": "checkpoint latest", "last": "checkpoint latest", "duration": "time", "minutes": "time", "seconds": "time",
    "hours": "time", "max-time": "time", "timeout": "time", "time-limit": "time", "budget": "time", "for": "time", "overwrite": "force|run", "yes": "force", "clean": "clear", "delete": "clear|remove", "rm": "clear|remove", "remove": "clear",
    "filter": "include", "pattern": "include", "glob": "include", "ext": "include", "extension": "include", "ignore": "exclude", "skip": "exclude",
    "column": "field", "col": "field", "key": "field", "text-field": "field", "text-column": "field", "text-key": "field", "json-key": "field",
    "charset": "encoding", "codec": "encoding", "lower": "lowercase", "lower-case": "lowercase", "uncased": "lowercase", "nfc": "normalize nfc",
    "normalise": "normalize", "unicode": "normalize", "doc": "documents", "docs": "documents", "lines": "documents line", "line": "documents line",
    "delimiter": "separator", "sep": "separator", "per-line": "documents line", "bytes": "units bytes", "byte-level": "units bytes", "graphemes": "units",
    "words": "units", "word-level": "units", "surprisal": "per-char", "per-token": "per-char", "per-character": "per-char", "per-word": "per-char", "bits": "per-char",
    "heldout": "part held-out", "split-name": "part", "adaptive": "online", "dynamic": "online", "baseline": "vary model=ngram,transformer",
    "vs": "on", "dry": "dry-run", "plan": "dry-run", "no-act": "dry-run", "simulate": "dry-run", "cfg": "config", "conf": "config", "config-file": "config", "settings": "config",
    "format": "json", "as-json": "json", "output-format": "json", "jsonl": "json", "color": "=charlm uses colour only on terminals; NO_COLOR=1 turns it off",
    "no-color": "=charlm uses colour only on terminals; NO_COLOR=1 turns it off", "colour": "=charlm uses colour only on terminals; NO_COLOR=1 turns it off", "no-colour": "no-color|=charlm uses colour only on terminals; NO_COLOR=1 turns it off",
    "help-all": "help", "usage": "help", "?": "help", "man": "help", "examples": "help", "ver": "version", "license": "=charlm is under the MIT licence",
    # single letters
    "n": "samples", "b": "batch-size", "t": "temperature|time", "l": "length|n-layer", "m": "run", "r": "run", "s": "seed", "o": _STDOUT, "q": "quiet",
    "e": _TIME_OR_STEPS, "d": "device", "c": "config|checkpoint", "f": f"prompt-file|force|{_FILES}", "i": f"prompt|{_FILES}", "v": "version", "j": "json|threads", "y": "yes|force",
}  # fmt: skip

COMMANDS: dict[str, str] = {
    "generate": "sample", "gen": "sample", "complete": "sample", "write": "sample", "infer": "sample",
    "inference": "sample", "predict": "sample", "chat": "sample", "prompt": "sample", "speak": "sample", "decode-text": "sample", "samples": "sample",
    "evaluate": "eval", "evaluation": "eval", "test": "eval", "score": "eval", "perplexity": "eval", "ppl": "eval", "loss": "eval", "validate": "eval",
    "measure": "eval", "bits": "eval", "surprisal": "eval --per-char FILE", "surprise": "eval --per-char FILE",
    "finetune": "train FILE --from RUN", "fine-tune": "train FILE --from RUN", "adapt": "train FILE --from RUN", "transfer": "train FILE --from RUN",
    "continue": "resume", "restart": "resume", "extend": "resume", "go-on": "resume", "fit": "train", "learn": "train", "pretrain": "train",
    "start": "train", "init": "train", "new": "train", "create": "train", "build": "train", "make": "train", "run": "train", "count": "train FILE --model ngram",
    "plan": "train --dry-run", "dry-run": "train --dry-run", "list": "runs", "ls": "runs", "models": "runs", "checkpoints": "runs", "ps": "runs", "history": "runs",
    "delete": "runs --remove RUN", "rm": "runs --remove RUN", "remove": "runs --remove RUN", "del": "runs --remove RUN", "show": "info", "describe": "info", "status": "info",
    "details": "info", "view": "info", "cat": "info", "report": "info", "version": "--version", "ver": "--version",
    "encode": "compress", "zip": "compress", "pack": "compress", "decode": "decompress", "unzip": "decompress", "unpack": "decompress", "uncompress": "decompress", "expand": "decompress",
    "stats": "inspect", "statistics": "inspect", "analyze": "inspect", "analyse": "inspect", "analysis": "inspect", "look": "inspect", "profile": "inspect", "explore": "inspect",
    "preview": "inspect", "summary": "inspect", "summarize": "inspect", "download": "data get NAME", "fetch": "data get NAME", "get": "data get NAME", "datasets": "data list", "dataset": "data list", "texts": "data list",
    "diff": "compare", "ablate": "compare", "ablation": "compare", "sweep": "compare", "bench": "compare", "benchmark": "compare", "vs": "compare", "grid": "compare", "tune": "compare",
    "check": "doctor", "verify": "doctor", "diagnose": "doctor", "fsck": "doctor", "health": "doctor", "clean": "cache --clear", "clear": "cache --clear", "prune": "cache --clear",
    "topics": "explain", "docs": "explain", "man": "explain", "tutorial": "explain", "teach": "explain", "prepare": "inspect", "preprocess": "inspect", "tokenize": "inspect", "tokenizer": "inspect",
}  # fmt: skip

VALUES: dict[str, dict[str, str]] = {
    "device": {"gpu": "cuda", "nvidia": "cuda", "cuda:0": "cuda", "0": "cuda", "metal": "mps", "apple": "mps", "none": "cpu", "host": "cpu"},
    "precision": {
        "float16": "bf16", "fp16": "bf16", "half": "bf16", "16": "bf16", "16-mixed": "bf16", "mixed": "bf16", "amp": "bf16",
        "bfloat16": "bf16", "bfp16": "bf16", "bf16-mixed": "bf16", "bf16-true": "bf16", "16-true": "bf16", "torch.bfloat16": "bf16",
        "float32": "fp32", "float": "fp32", "32": "fp32", "single": "fp32", "full": "fp32", "32-true": "fp32", "f32": "fp32", "tf32": "fp32",
        "float64": "fp32", "fp64": "fp32", "double": "fp32", "64": "fp32",
    },
    "mixer": {
        "transformer": "attention", "gpt": "attention", "self-attention": "attention", "selfattention": "attention", "mha": "attention", "attn": "attention",
        "multi-head-attention": "attention", "causal-attention": "attention", "softmax": "attention", "rnn": "recurrent", "lstm": "recurrent", "gru": "recurrent", "recurrence": "recurrent",
        "mamba": "recurrent", "ssm": "recurrent", "conv": "convolution", "cnn": "convolution", "conv1d": "convolution", "convolutional": "convolution",
        "simple": "simple-attention", "parameter-free": "simple-attention",
    },
    "model": {
        "n-gram": "ngram", "ngrams": "ngram", "n-grams": "ngram", "kneser-ney": "ngram", "markov": "ngram", "counts": "ngram", "gpt": "transformer",
        "attention": "transformer", "decoder": "transformer",
    },
    "position": {
        "rope": "rotary", "roformer": "rotary", "rotational": "rotary", "absolute": "learned", "abs": "learned", "embedding": "learned", "trainable": "learned", "gpt2": "learned",
        "sine": "sinusoidal", "sin": "sinusoidal", "sincos": "sinusoidal", "fixed": "sinusoidal", "fourier": "sinusoidal", "nope": "none", "no": "none", "off": "none",
        "t5": "relative", "shaw": "relative", "rel": "relative", "bias": "alibi", "linear": "alibi",
    },
    "optimizer": {"adam": "adamw", "adam-w": "adamw", "sgd": "adamw", "rmsprop": "adamw", "lion": "muon", "adamw_torch": "adamw"},
    "units": {
        "char": "chars", "character": "chars", "characters": "chars", "codepoint": "chars", "codepoints": "chars", "code-points": "chars", "unicode": "chars", "letters": "chars",
        "byte": "bytes", "utf8": "bytes", "utf-8": "bytes", "grapheme": "", "graphemes": "", "cluster": "", "clusters": "",
        "words": "", "word": "", "tokens": "", "token": "", "bpe": "", "subword": "", "subwords": "", "sentencepiece": "", "wordpiece": "",
    },
    "documents": {
        "lines": "line", "newline": "line", "record": "line", "records": "line", "row": "line", "rows": "line", "files": "file", "paragraph": "blank-line", "paragraphs": "blank-line",
        "blank": "blank-line", "blanklines": "blank-line", "blank-lines": "blank-line", "empty-line": "blank-line", "sep": "separator", "no": "none", "off": "none",
    },
    "split": {"end": "tail", "last": "tail", "sequential": "tail", "random": "blocks", "shuffle": "blocks", "block": "blocks", "document": "documents", "docs": "documents", "hash": "documents"},
    "normalize": {"nfd": "nfc", "nfkd": "nfkc", "yes": "nfc", "true": "nfc"},
    "newlines": {"unix": "lf", "\\n": "lf", "n": "lf", "crlf": "keep", "none": "keep", "linux": "lf"},
    "compile": {"true": "on", "yes": "on", "1": "on", "false": "off", "no": "off", "0": "off", "none": "off"},
}  # fmt: skip

NO_WORDS = "charlm has no words, tokens or graphemes; its units are chars or bytes"
"""For values of `--units` that mean neither."""


def plain(name: str) -> str:
    """A name as the tables have it: no dashes before it, hyphens within, small letters."""
    return name.split("=")[0].strip("-").replace("_", "-").lower()


def option_meant(name: str, available: Collection[str], command: str = "") -> str | None:
    """What the table says an option means: options with their dashes, or a sentence after `=`; None where it is silent.

    `available` are the options there are, without their dashes. One of these, spelled in another way, comes first.
    """
    wanted = plain(name)
    if wanted in available:
        return f"--{wanted}"
    positive = wanted.removeprefix("no-")
    meant = OPTIONS.get(f"{command} {wanted}") or OPTIONS.get(wanted) or OPTIONS.get(positive, "")
    for one in meant.split("|") if meant else []:
        if one.startswith("="):
            return one
        several = one.split(" + ")
        if all(each.split()[0] in available for each in several):
            return " or ".join(f"--{each}" for each in several)
    return None


def option_like(name: str, available: Iterable[str], cutoff: float = 0.7) -> str | None:
    """The option, with its dashes, that has nearly the same letters; None where there is none."""
    close = get_close_matches(plain(name), sorted(available), 1, cutoff) if len(plain(name)) > 2 else []
    return f"--{close[0]}" if close else None


def setting_meant(name: str, available: Collection[str]) -> str | None:
    """The name of a setting, with its underscores, that was meant by another."""
    options = [each.replace("_", "-") for each in available]
    meant = option_meant(name, options)
    if meant is None or meant.startswith("="):
        meant = option_like(name, options, 0.6)
    return None if meant is None else meant.split()[0].strip("-").replace("-", "_")


def command_meant(name: str, available: Iterable[str]) -> str | None:
    """The command line that was probably meant by a command that is not there."""
    wanted, names = plain(name), list(available)
    if wanted in names:
        return wanted
    meant = COMMANDS.get(wanted)
    if meant is not None:
        return meant
    close = get_close_matches(wanted, names, 1)
    return close[0] if close else None


def name_meant(name: str, names: Sequence[str]) -> str | None:
    """Of these names the one that was given as the end of a path, that alone begins so, or that has nearly its letters."""
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    if last in names:
        return last
    begun = [other for other in names if last and other.lower().startswith(last.lower())]
    close = begun if len(begun) == 1 else get_close_matches(last, names, 1)
    return close[0] if close else None


def value_meant(setting: str, value: object, allowed: Sequence[str]) -> str:
    """The end of a sentence that refuses words, with those that were meant; empty where they are not known."""
    meant = []
    for word in str(value).split(","):
        wanted, known = word.strip().lower(), VALUES.get(setting, {})
        found = known.get(wanted, known.get(wanted.replace("_", "-")))
        if found == "":
            return f"; {NO_WORDS}"
        close = get_close_matches(wanted.replace("_", "-"), allowed, 1, 0.7)
        if found is None and not close:
            return ""
        meant.append(close[0] if found is None else found)
    return f"; did you mean {','.join(meant)}?"


def number_meant(text: str, *, whole: bool) -> str | None:
    """The number that was probably meant by `10%`, `0,5`, `10,000`, `4.0`, `1e3`, `5k` or `3 layers`."""
    match = re.fullmatch(
        r"([-+]?\d[\d_]*(?:[.,]\d+)*(?:e[-+]?\d+)?)\s*(%|[a-z]*)\.?", text.strip().lower(), re.ASCII
    )
    if match is None:
        return None
    digits, unit = match.groups()
    if re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+", digits) and (whole or digits.count(",") > 1):
        digits = digits.replace(",", "")
    try:
        number = float(digits.replace(",", ".").replace("_", ""))
    except ValueError:
        return None
    number *= {"%": 0.01, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9}.get(unit, 1.0)
    if not whole:
        return f"{number:.12g}"
    return str(int(number)) if number == int(number) and abs(number) < 2**63 else None


def time_meant(text: str) -> str | None:
    """The time that was probably meant by `60 s`, `10min`, `1:30`, `00:10:00`, `2 hours` or `1d`."""
    clock = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text.strip(), re.ASCII)
    if clock:
        days, hours, minutes, seconds = (int(group or 0) for group in clock.groups())
        return _written(days * 86400 + hours * 3600 + minutes * 60 + seconds)
    unit = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    part = r"(\d+(?:[.,]\d+)?)\s*(d|h|m|s)[a-z]*\.?"
    if not re.fullmatch(rf"(?:{part}[\s,]*(?:and)?\s*)+", text.strip().lower(), re.ASCII):
        return None
    parts = re.findall(part, text.lower(), re.ASCII)
    return _written(round(sum(float(number.replace(",", ".")) * unit[letter] for number, letter in parts)))


def _written(seconds: int) -> str | None:
    """Seconds as `--time` takes them."""
    if seconds == 60:
        return "60s"
    hours, minutes, rest = seconds // 3600, seconds // 60 % 60, seconds % 60
    parts = [f"{n}{letter}" for n, letter in ((hours, "h"), (minutes, "m"), (rest, "s")) if n]
    return "".join(parts) or None
