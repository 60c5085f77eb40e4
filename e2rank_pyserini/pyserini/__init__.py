"""The only rooms that import Pyserini."""
