"""From the model's files and a text's characters to its vector."""
