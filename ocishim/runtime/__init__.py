"""The OCI runtime and conmon as this server calls them, and the exits they report."""
