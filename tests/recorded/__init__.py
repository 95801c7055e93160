"""What other releases of transformers accept, written down."""
