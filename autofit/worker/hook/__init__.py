"""The folder that ``autofit run`` puts first on PYTHONPATH. It holds nothing but the hook, so it hides no module."""
