"""Records on disk and the indexes of them in memory."""
