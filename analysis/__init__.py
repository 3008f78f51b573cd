"""Analyses shipped with ftprobe: one module per study, found by name."""
