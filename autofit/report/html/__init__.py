"""The HTML report: figures, their charts, and the page around them."""
