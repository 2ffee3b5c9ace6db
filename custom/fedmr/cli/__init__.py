"""The `fedmr` command: arguments, messages and exit codes."""
