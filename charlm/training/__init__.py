"""Training: planning a run, the training loop, and the parts that it uses."""
