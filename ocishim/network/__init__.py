"""The pod's network, by CNI plugins."""
