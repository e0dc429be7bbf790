"""The server over its real socket, spoken to by a client that is not ours."""
