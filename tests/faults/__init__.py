"""Ending, failing and stalling the server at every effect it has, and what must be there afterwards."""
