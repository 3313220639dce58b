"""N-gram models: interpolated modified Kneser-Ney."""
