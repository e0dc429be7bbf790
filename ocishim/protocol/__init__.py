"""Wire formats as plain state machines and functions: bytes in, events out, no I/O."""
