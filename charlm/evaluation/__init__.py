"""Evaluation: the score of a text, its confidence interval, and baselines to compare it with."""
