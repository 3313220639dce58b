"""A text in as few bits as a model predicts it with: an arithmetic coder on the predictor."""
