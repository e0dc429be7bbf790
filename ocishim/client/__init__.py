"""A client of any CRI server, and of what this one has beyond: for the command line."""

from ocishim.client.connection import Client, connected

__all__ = ["Client", "connected"]
