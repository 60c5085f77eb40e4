"""Speed: this machine, its matmul peak, and what a user would run instead, measured in the same run."""
