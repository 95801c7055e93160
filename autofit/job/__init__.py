"""The job: what is trained, on which samples, with which model, and what surrounds it."""
