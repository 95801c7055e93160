"""Strategies against each other over recorded sweeps: ``python -m benchmarks.search_regret``."""
