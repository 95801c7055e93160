"""Devices: the present one, those of the catalogue, and what the host says."""
