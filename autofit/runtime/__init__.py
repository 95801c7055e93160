"""Code that users take away with an export: collators and an attention. It needs torch and nothing else of autofit."""
