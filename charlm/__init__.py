"""charlm: train, sample and evaluate language models that work one character at a time."""

__version__ = "0.1.0"
