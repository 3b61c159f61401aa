"""Training: the loop over a method that learns."""
