"""The worker's side of a trial: everything that imports torch. One job in one process."""
