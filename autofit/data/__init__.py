"""The training set a user points at, as far as a search needs it: how many tokens each sample has."""
