"""Training: the plan, the trainer, and what they stand on."""
