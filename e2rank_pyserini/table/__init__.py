"""The papers' table beside ours."""
