"""Exec, attach and port-forward over HTTP: SPDY/3.1 and WebSocket, for whoever holds a token."""
