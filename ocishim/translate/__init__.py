"""What the CRI means in terms of the OCI runtime: pure functions of requests and of facts gathered before."""
