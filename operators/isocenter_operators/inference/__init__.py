"""The inference client: a Protocol, and Triton behind it."""
