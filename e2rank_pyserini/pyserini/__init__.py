"""The rooms that know Pyserini; corpus.py, datasets.py and bench/encoders.py import it too, inside functions."""
