"""The only home of system calls and subprocesses: thin, typed, named as the kernel names them."""
