"""The model: a decoder-only transformer, from ids to logits."""
