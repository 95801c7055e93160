"""How good the prediction is: ``python -m benchmarks.memory_prediction``, part by part."""
