"""The image package alone: real tars, file systems and registries, no server."""
