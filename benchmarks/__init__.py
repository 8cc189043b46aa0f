"""Ratios to the peers, limits of the machine, and goals: ``python -m benchmarks``."""
