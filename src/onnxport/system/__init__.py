"""The process and the machine: memory, threads, output of other libraries, installed packages."""
