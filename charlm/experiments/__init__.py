"""Experiments: controlled comparisons of variants over seeds."""
