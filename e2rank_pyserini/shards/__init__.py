"""Corpus -> shards: encoded by this process, several, or a Ray cluster."""
