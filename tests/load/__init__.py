"""Many pods at once, for long: no call may fail, nothing may grow."""
