"""The CRI's RPCs: decode, validate, call, encode."""
