"""Data: from raw text of any kind to ids, and to the windows of a training step."""
