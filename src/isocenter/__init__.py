"""Isocenter, the service: scans in, rules, durable jobs, results beside the images."""

__version__ = "0.1.0"
