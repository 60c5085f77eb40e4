"""Training: the examples, how they are made, and the two stages that learn from them."""
