"""Claims of autofit, measured on a GPU in one command: ``python -m benchmarks.gpu``; see ``__main__``."""
