"""One module for each kind of result, and what it is made of."""
