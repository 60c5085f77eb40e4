"""E2Rank in MTEB: the model, its instructions, its evaluation."""
