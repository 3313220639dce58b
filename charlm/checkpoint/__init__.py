"""Checkpoints: written atomically, verified, read without executing anything."""
