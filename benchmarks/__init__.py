"""Proofs of the claims: each module runs by ``python -m benchmarks.NAME``, prints a table and writes JSON."""
