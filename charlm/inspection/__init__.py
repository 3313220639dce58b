"""Inspection: what a text is like before training, and whether this machine can train."""
