"""What containers and the server itself use, as numbers: cgroup files, network counters, Prometheus."""
