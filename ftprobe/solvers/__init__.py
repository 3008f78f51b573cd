"""The numerics of probes and comparisons, on tensors alone: torch and numpy."""
