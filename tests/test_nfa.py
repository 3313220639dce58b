"""Constrained decoding writes exactly the texts that Python's `re` matches, whatever the pattern."""

import itertools
import re
import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from charlm.data.tokenizer import Vocabulary
from charlm.errors import UsageError
from charlm.inference.constrained import Constraint, SymbolMatcher
from charlm.inference.nfa_matcher import State
from charlm.inference.sampling import sampling_weights
from charlm.inference.sampling_config import SamplingConfig

SPELLED = Vocabulary.build(
    "aaBB__\n\né橩𩩩", min_count=2
)  # the last three in bytes, of which no others can be made
BYTES = Vocabulary.build("aB_\né橩𩩩", units="bytes")
ALPHABET, LONGEST = "aB_\né橩𩩩", 3
TEXTS = ["".join(chars) for n in range(LONGEST + 1) for chars in itertools.product(ALPHABET, repeat=n)]
ATOMS = [
    *("a", "B", "_", "\\n", "é", "橩", "𩩩", "x", ".", "\\w", "\\W", "\\s", "[aé]", "[^a]", "[B-_]", "(?i:b)", "(?i:É)"),
    *("(?a:\\w)", "(?s:.)", "^", "\\A", "\\Z", "\\b", "\\B", "(?m:^)", "(?m:$)", "(?a:\\b)", ""),
]  # fmt: skip


def joined(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Larger patterns of smaller ones."""
    repeat = st.sampled_from(["*", "+", "?", "{2}", "{0,2}", "{1,}", "*?", "+?", "??", "{1,2}?"])
    return (
        st.lists(parts, min_size=2, max_size=3).map("".join)
        | st.lists(parts, min_size=2, max_size=3).map(lambda each: f"(?:{'|'.join(each)})")
        | st.tuples(parts, repeat).map(lambda both: f"({both[0]}){both[1]}")
    )


PATTERNS = st.recursive(st.sampled_from(ATOMS), joined, max_leaves=6)


def written(matcher: SymbolMatcher, length: int) -> tuple[set[str], set[str]]:
    """Every text of at most so many characters that the constraint lets through, and every text on the way to one."""
    whole: set[str] = set()
    begun: set[str] = set()
    spellings = matcher._spellings

    def follow(state: State, left: int, before: bytes, rest: bytes) -> None:
        if not rest:
            begun.add(before.decode())
            if matcher.chars.accepts(state):
                whole.add(before.decode())
        needs = matcher.needs(state, rest)
        allowed = np.flatnonzero(needs <= left).tolist()
        assert allowed or (not rest and matcher.chars.accepts(state)), "a dead end"
        for symbol in allowed:
            after, more = matcher.step(state, rest, symbol)
            text = before if more else before + rest + spellings[symbol]
            follow(after, left - (not more), text, more)

    follow(matcher.chars.start, length, b"", b"")
    return whole, begun


@settings(max_examples=150, deadline=None)
@given(PATTERNS, st.sampled_from([SPELLED, BYTES]), st.integers(0, LONGEST))
def test_what_is_written_is_what_matches_and_nothing_leads_nowhere(
    pattern: str, vocabulary: Vocabulary, length: int
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {text for text in TEXTS if len(text) <= length and re.fullmatch(pattern, text)}
    if "\\B" in pattern:  # whose versions differ on the empty text
        expected.discard("")
    try:
        matcher = SymbolMatcher(pattern, vocabulary)
        matcher.check_length(length)
    except UsageError:
        assert not expected
        return
    whole, begun = written(matcher, length)
    if "\\B" in pattern:
        whole.discard("")
    assert whole == expected
    beginnings = {text[:n] for text in expected for n in range(len(text) + 1)}
    assert begun <= beginnings | {""}


@given(
    PATTERNS, st.integers(0, 2**32 - 1), st.sampled_from([{}, {"top_k": 2}, {"top_p": 0.5}, {"min_p": 0.9}])
)
@settings(max_examples=50, deadline=None)
def test_masked_probabilities_sum_to_one_and_keep_their_proportions(
    pattern: str, seed: int, filters: dict[str, float]
) -> None:
    try:
        matcher = SymbolMatcher(pattern, SPELLED)
        matcher.check_length(4)
    except UsageError:
        assume(False)
        return
    rng, n = np.random.default_rng(seed), 3
    constraint, left = Constraint(matcher, n, 4), np.arange(n)
    for _ in range(20):
        scores = rng.normal(size=(len(left), SPELLED.n_symbols)) * 5
        masked = constraint.mask(left, scores)
        weights = sampling_weights(masked, SamplingConfig(temperature=1, seed=1, **filters))
        assert np.isfinite(weights).all() and (weights.sum(axis=-1) > 0).all()
        assert (weights[np.isinf(masked)] == 0).all(), "what is masked is never drawn"
        kept = np.isfinite(masked)
        np.testing.assert_array_equal(masked[kept], scores[kept])
        drawn = np.array([rng.choice(len(row), p=row / row.sum()) for row in weights])
        left = left[constraint.read(left, drawn) >= 0]
        if not len(left):
            return


HOSTILE = [
    ("(a|B)*a(a|B){250}", 300),  # 2^250 states of a DFA
    ("(a+)+B", 40),  # where backtracking takes forever
    ("(a|a?)+B", 40),
    ("(a?){300}a{300}", 600),
    ("((a*)*)*B", 20),
    (".{0,9000}B", 9001),
    ("(?:(?:a{1,30}){1,30}B?){1,9}", 50),
]


@pytest.mark.parametrize(("pattern", "length"), HOSTILE)
def test_a_hostile_pattern_is_followed_in_time_that_grows_with_its_size(pattern: str, length: int) -> None:
    """This hangs the tests, whose time is limited, where it grows otherwise."""
    matcher = SymbolMatcher(pattern, SPELLED)
    constraint, ids = Constraint(matcher, 1, length), np.array([0])
    text, rng = b"", np.random.default_rng(1)
    while len(text.decode("utf-8", "ignore")) < min(length, 400):
        scores = constraint.mask(np.array([0]), rng.normal(size=(1, SPELLED.n_symbols)))
        ids = constraint.read(np.array([0]), scores.argmax(axis=-1))
        if ids[0] < 0:
            return
        text += SPELLED.spellings[ids[0]]


@pytest.mark.parametrize(
    ("pattern", "facts"),
    [
        ("((a{100}){100}){10}", ("too large", "20,000")),
        ("(()*){100000}", ("too large", "20,000")),
        ("(((){1000}){1000}){1000}", ("too large", "20,000")),
        ("(" * 5000 + ")" * 5000, ("nested",)),
        ("(a", ("(a", "unterminated")),
        ("a**", ("multiple repeat",)),
        ("a{5,2}", ("min repeat",)),
        ("a{99999999999}", ("repeat",)),
        ("".join(map(chr, range(0x4E00, 0x4E00 + 300))), ("256",)),
        ("(?=a)a", ("lookahead",)),
        ("a(?<!b)", ("lookbehind",)),
        ("(a)\\1", ("reference",)),
        ("(a)?(?(1)b|c)", ("condition",)),
        ("a++", ("possessive",)),
        ("(?>a)", ("atomic",)),
        ("zq", ("lacks", "q, z")),
        ("a\\bB", ("no text",)),
    ],
)
def test_a_pattern_that_cannot_be_met_says_why(pattern: str, facts: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as refused:
        SymbolMatcher(pattern, SPELLED)
    said = str(refused.value)
    assert "`regex`" in said and len(said) < 300 and all(fact in said for fact in facts), said


def test_a_dollar_is_the_very_end() -> None:
    """`re` also lets one newline follow it, which nobody means."""
    whole, _ = written(SymbolMatcher("a$\\n?", SPELLED), 3)
    assert whole == {"a"}


def test_the_shortest_match_must_fit() -> None:
    matcher = SymbolMatcher("a{3,}é", SPELLED)
    assert matcher.chars.fewest == 4
    matcher.check_length(4)
    with pytest.raises(UsageError, match="4 characters, but `length` is 3; allow at least 4"):
        matcher.check_length(3)
