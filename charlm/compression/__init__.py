"""Lossless compression of text: an arithmetic coder driven by the model's predictions."""
