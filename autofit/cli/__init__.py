"""The command line: parsing, exit codes, and nothing that a library user would miss."""
