"""Suggest what a user probably meant: first from tables of names that other tools use, then by similar spelling."""

import re
from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches

_FILES = "=name files without an option, as in: charlm train FILE"
_NO_GPU = (
    "device cuda|=this command computes on the CPU; train, compare, sample, eval and surprisal take --device"
)
_STDOUT = "out|=results go to standard output; write them to a file with > FILE"
_SURPRISAL = "=for the surprisal of each character: charlm surprisal FILE --by char --format jsonl"
_RESUME = "=to resume a run: charlm resume RUN"


def _pairs(table: str) -> list[tuple[str, str]]:
    """Parse lines `meaning <- names` into pairs of a name and its meaning."""
    lines = [line.split(" <- ") for line in table.strip().splitlines()]
    return [(name, meaning) for meaning, names in lines for name in names.split()]


# Options of charlm without dashes, the best first, separated by `|`: the first that the command has is suggested.
# `a + b` suggests both; a value may follow an option; `=` begins a sentence, for what charlm does differently.
# A name `COMMAND:NAME` holds for one command only.
OPTIONS = dict(
    _pairs(f"""
steps <- max-iters iters iterations num-iters max-steps num-steps train-steps num-train-steps total-steps
steps + time <- epochs epoch num-epochs max-epochs num-train-epochs
time <- duration minutes seconds hours max-time timeout time-limit budget
schedule <- warmup warmup-iters warmup-steps warmup-ratio lr-decay lr-decay-iters lr-scheduler-type min-lr
learning-rate <- lr alpha base-lr max-lr step-size
batch-size <- batch bs per-device-train-batch-size train-batch-size micro-batch-size
grad-accum <- gradient-accumulation-steps accumulate-grad-batches accumulation-steps
grad-clip <- max-grad-norm clip-grad-norm gradient-clip-val clip clip-norm
weight-decay <- wd l2
optimizer <- optim opt beta1 beta2
eval-every <- eval-interval eval-steps eval-freq val-interval log-interval logging-steps print-every
save-every <- save-steps save-interval save-freq checkpoint-every checkpoint-interval
patience <- early-stopping early-stop early-stopping-patience
seed <- random-seed manual-seed
precision <- dtype
precision bf16 <- fp16 half bf16 bfloat16 amp mixed-precision
precision fp32 <- fp32 float32
compile on <- torch-compile
threads <- num-workers workers jobs cpus cores
device cpu|=this command computes on the CPU <- cpu no-cuda use-cpu
device mps <- mps
{_NO_GPU} <- gpu cuda use-gpu gpuid gpu-id n-gpu-layers
=charlm trains on one device <- gpus num-gpus ddp world-size nproc-per-node local-rank
=charlm writes all metrics to metrics.jsonl in the run's folder, and plots them in report.html <- wandb wandb-log tensorboard
=to evaluate a run: charlm eval --run RUN <- eval-only
from|run <- init-from model-name model-name-or-path pretrained base-model load-from model-path weights
from|=to fine-tune a run: charlm train FILE --from RUN <- finetune fine-tune
teacher <- distill distil distill-from teacher-model
{_RESUME} <- resume-from resume-from-checkpoint
{_RESUME}; charlm train --run RUN --resume-if-exists starts it if it does not exist <- resume continue
dry-run <- dry plan simulate
config <- cfg config-file settings
n-layer <- layers num-layers num-hidden-layers depth blocks
n-head <- heads num-attention-heads
n-kv-head <- num-key-value-heads
n-embd <- hidden hidden-size hidden-dim rnn-size d-model dim width embed-dim embedding-dim
block-size <- max-seq-length seq-len seq-length sequence-length n-ctx ctx-size context-length context-size context-window
block-size|stride <- context ctx
dropout <- drop hidden-dropout-prob
mixer <- arch architecture
mixer recurrent <- rnn lstm gru
position <- pos pos-encoding positional-encoding
position rotary <- rope rotary
prior-order|ngram-embeddings <- ngram n-gram
{_FILES} <- input file files data dataset corpus path dir input-file text-file train-file data-path data-dir
=to read standard input, give - as the file <- stdin
val <- val-split val-frac val-size validation-split valid validation holdout held-out
val-file <- val-data validation-file
test <- test-split test-size
units <- words word-level
units bytes <- bytes byte-level
min-count <- vocab vocab-size
=charlm needs no tokenizer: its symbols are characters, or bytes with --units bytes <- tokenizer
field <- column key text-field text-column
encoding <- charset
lowercase <- lower
documents line <- lines line
separator <- sep delimiter
include <- filter glob
include|regex <- pattern
regex <- regexp grammar constraint guided-regex
verbatim <- memorized memorised memorization copied
exclude <- ignore skip
length <- max-new-tokens max-tokens n-predict num-tokens chars characters
length|block-size <- max-length
samples <- num-samples num-return-sequences count number
temperature <- temp
temperature 0 <- greedy
temperature|time <- t
top-k <- k
top-p <- nucleus
prompt|top-p <- p
=charlm has no penalty for repeats; try --min-p or a higher --temperature <- repetition-penalty repeat-penalty
prompt <- primetext start start-text prefix
prompt|{_FILES} <- text
stop <- stop-sequence stop-token
one-document|stop <- eos
{_SURPRISAL} <- per-char per-character surprisal per-token
by char <- surprisal:per-char surprisal:per-character surprisal:chars
by word <- surprisal:per-word
by line <- surprisal:per-line surprisal:lines
format jsonl <- surprisal:json
run <- model name run-name experiment project
checkpoints <- out-dir output-dir save-dir model-dir ckpt-dir checkpoint-dir
checkpoint <- ckpt ckpt-path
{_STDOUT} <- output out output-file save save-to o
force|run <- overwrite
force <- yes
clear|remove <- delete rm
clear <- clean remove
json <- format as-json output-format
=there is no verbose mode: charlm reports everything on standard error <- verbose log-level progress
quiet|=redirect messages with 2> FILE <- silent no-progress
=set CHARLM_DEBUG=1 to see where an error comes from <- debug
=charlm uses colour only on terminals; NO_COLOR=1 turns it off <- color colour no-colour
help <- help-all usage
prompt-file <- sample:file sample:files sample:input-file sample:text-file sample:path
prompt <- sample:input
run + checkpoints <- train:output train:out train:output-file train:save
to <- data:output data:out data:output-dir data:dir
on|{_FILES} <- compare:file
""")
)

COMMANDS = dict(
    _pairs("""
train <- fit learn pretrain start init new create build run
train FILE --from RUN <- finetune fine-tune adapt
train FILE --plain --teacher RUN <- distill distil
train --dry-run <- plan dry-run
inspect <- stats statistics analyze analyse profile explore preview summary prepare tokenize
resume <- continue restart extend
sample <- generate gen complete write infer inference predict chat prompt
eval <- evaluate evaluation test score perplexity ppl loss validate
surprisal <- rescore rescoring surprisals
serve <- web ui webui gui server desk host
compress <- encode zip pack
decompress <- decode unzip unpack uncompress
runs <- list ls models checkpoints history
runs --remove RUN <- delete rm remove del
info <- show describe status details view cat report
compare <- diff ablate ablation sweep bench benchmark
cache --clear <- clean clear prune
data get NAME <- download fetch get
data list <- datasets dataset texts
explain <- topics docs man tutorial
doctor <- check verify diagnose health
--version <- version
""")
)

VALUES = {
    (meaning.split()[0], name): meaning.partition(" ")[2]
    for name, meaning in _pairs("""
device cuda <- gpu nvidia cuda:0 0
device mps <- metal apple
device cpu <- none host
precision bf16 <- float16 fp16 half 16 16-mixed mixed amp bfloat16 bf16-mixed
precision fp32 <- float32 float 32 single full tf32 float64 fp64 double 64
mixer attention <- transformer gpt self-attention mha attn multi-head-attention softmax
mixer recurrent <- rnn lstm gru mamba ssm
mixer convolution <- conv cnn conv1d
mixer simple-attention <- simple parameter-free
model ngram <- n-gram ngrams kneser-ney markov counts
model transformer <- gpt attention decoder
position rotary <- rope roformer
position learned <- absolute abs embedding gpt2
position sinusoidal <- sine sin fixed fourier
position relative <- t5 shaw rel
position none <- nope no off
optimizer adamw <- adam adam-w sgd rmsprop
units chars <- char character characters unicode letters
units bytes <- byte utf8 utf-8
units <- grapheme graphemes words word tokens token bpe subword sentencepiece wordpiece
documents line <- lines newline records rows
documents file <- files
documents blank-line <- paragraph paragraphs
split tail <- end last sequential
split blocks <- random shuffle block
split documents <- document docs hash
newlines lf <- unix linux
newlines keep <- crlf none
by char <- chars character characters letter letters
by word <- words token tokens
by line <- lines sentence sentences row
words whitespace <- space spaces white-space split
words unicode <- uax29 icu boundaries
space after <- trailing right
space before <- leading left
space none <- no off neither
context line <- sentence none lines
context document <- file text documents
groups blank-line <- blank empty-line paragraph
groups id <- ids key tab
base 2 <- bits bit log2
base e <- nats nat ln
base 10 <- log10 hartleys dits
format jsonl <- json ndjson json-lines
format tsv <- tab table txt
format ansi <- terminal color colour
format html <- htm page web
compile on <- true yes 1
compile off <- false no 0 none
""")
}
NO_WORDS = "charlm has no words, tokens or graphemes; its units are chars or bytes"
"""For values of `--units` that mean neither."""


def plain(name: str) -> str:
    """Normalize a name as in the tables: no leading dashes, hyphens for underscores, lower case."""
    return name.split("=")[0].strip("-").replace("_", "-").lower()


def option_meant(name: str, available: Collection[str], command: str = "") -> str | None:
    """Look up what an option means: options with their dashes, or a sentence after `=`; None if the table has none.

    `available` are the existing options, without their dashes. One of these, spelled differently, comes first.
    """
    wanted = plain(name)
    if wanted in available:
        return f"--{wanted}"
    positive = wanted.removeprefix("no-")
    meant = OPTIONS.get(f"{command}:{wanted}") or OPTIONS.get(wanted) or OPTIONS.get(positive, "")
    for one in meant.split("|") if meant else []:
        if one.startswith("="):
            return one
        several = one.split(" + ")
        if all(each.split()[0] in available for each in several):
            return " or ".join(f"--{each}" for each in several)
    return None


def option_like(name: str, available: Iterable[str], cutoff: float = 0.7) -> str | None:
    """Return the option, with its dashes, of most similar spelling; None if none is similar."""
    close = get_close_matches(plain(name), sorted(available), 1, cutoff) if len(plain(name)) > 2 else []
    return f"--{close[0]}" if close else None


def setting_meant(name: str, available: Collection[str]) -> str | None:
    """Return the setting, with its underscores, that was meant by another name."""
    options = [each.replace("_", "-") for each in available]
    meant = option_meant(name, options)
    if meant is None or meant.startswith("="):
        meant = option_like(name, options, 0.6)
    return None if meant is None else meant.split()[0].strip("-").replace("-", "_")


def command_meant(name: str, available: Iterable[str]) -> str | None:
    """Return the command line that was probably meant by an unknown command."""
    wanted, names = plain(name), list(available)
    if wanted in names:
        return wanted
    meant = COMMANDS.get(wanted)
    if meant is not None:
        return meant
    close = get_close_matches(wanted, names, 1)
    return close[0] if close else None


def name_meant(name: str, names: Sequence[str]) -> str | None:
    """Return the name that was meant: the last part of a path, the only one with this prefix, or one of similar spelling."""
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    if last in names:
        return last
    begun = [other for other in names if last and other.lower().startswith(last.lower())]
    close = begun if len(begun) == 1 else get_close_matches(last, names, 1)
    return close[0] if close else None


def value_meant(setting: str, value: object, allowed: Sequence[str]) -> str:
    """Return the end of an error about invalid words, with those that were meant; empty if unknown."""
    meant = []
    for word in str(value).split(","):
        wanted = word.strip().lower().replace("_", "-")
        found = VALUES.get((setting, wanted))
        if found == "":
            return f"; {NO_WORDS}"
        close = get_close_matches(wanted, allowed, 1, 0.7)
        if found is None and not close:
            return ""
        meant.append(close[0] if found is None else found)
    return f"; did you mean {','.join(meant)}?"


def number_meant(text: str, *, whole: bool) -> str | None:
    """Return the number that was probably meant by `10%`, `0,5`, `10,000`, `4.0`, `1e3`, `5k` or `3 layers`."""
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
    """Return the time that was probably meant by `60 s`, `10min`, `1:30`, `00:10:00`, `2 hours` or `1d`."""
    clock = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text.strip(), re.ASCII)
    if clock:
        days, hours, minutes, seconds = (int(group or 0) for group in clock.groups())
        return written_time(days * 86400 + hours * 3600 + minutes * 60 + seconds)
    unit = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    part = r"(\d+(?:[.,]\d+)?)\s*(d|h|m|s)[a-z]*\.?"
    if not re.fullmatch(rf"(?:{part}[\s,]*(?:and)?\s*)+", text.strip().lower(), re.ASCII):
        return None
    parts = re.findall(part, text.lower(), re.ASCII)
    return written_time(
        round(sum(float(number.replace(",", ".")) * unit[letter] for number, letter in parts))
    )


def written_time(seconds: int) -> str | None:
    """Format seconds as `--time` takes them; None for less than one."""
    if seconds == 60:
        return "60s"
    hours, minutes, rest = seconds // 3600, seconds // 60 % 60, seconds % 60
    parts = [f"{n}{letter}" for n, letter in ((hours, "h"), (minutes, "m"), (rest, "s")) if n]
    return "".join(parts) or None
