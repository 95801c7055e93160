"""Facts that ship with the package, each with its source."""
