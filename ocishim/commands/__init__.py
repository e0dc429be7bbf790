"""The command line's commands, a module a subject."""
