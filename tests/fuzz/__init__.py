"""Mutated real images through what a worker runs: each ends as processed, or as refused with a reason."""
