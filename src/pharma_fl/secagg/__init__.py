"""A sum of the partners' vectors that the coordinator can open, while it can open nothing else."""
