"""Inspect a text before training, and check this machine and the files of a run."""
