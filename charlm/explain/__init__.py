"""Explanations: the ideas in the model, each with a small computation."""
