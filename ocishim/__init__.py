"""ocishim: a container runtime server for Kubernetes nodes, spoken to over the CRI."""

__version__ = "0.1.0"
