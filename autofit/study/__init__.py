"""A study: trials with their outcomes and measurements, kept on the disk, ranked, recommended."""
