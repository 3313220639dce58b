"""Inference: predictors, sampling, and generation."""
