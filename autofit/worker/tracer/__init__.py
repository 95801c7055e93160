"""Tracing one training step without data: what it allocates and computes, and in which order. Workers only."""
