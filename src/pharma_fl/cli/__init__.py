"""The `pharma-fl` command: each file parses, calls and prints one command group."""
