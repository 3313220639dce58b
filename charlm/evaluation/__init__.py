"""The score of a text, with baselines and intervals beside it."""
