"""A run as one web page that computes by itself: the packed model, and the scripts that read it."""
