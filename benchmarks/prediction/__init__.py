"""Quality of the predictions: ``python -m benchmarks.memory_prediction``, part by part."""
