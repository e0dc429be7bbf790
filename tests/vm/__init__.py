"""The integration tests in a virtual machine: a host with cgroup v2 and systemd, whatever this machine is."""
