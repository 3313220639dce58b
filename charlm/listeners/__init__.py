"""What watches a training run: each a callable of one event."""
