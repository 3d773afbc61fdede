"""The fault test: a whole service under traffic, broken at random moments, and what is in the archive afterwards."""
