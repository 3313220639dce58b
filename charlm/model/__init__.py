"""The decoder-only transformer: from ids to logits."""
