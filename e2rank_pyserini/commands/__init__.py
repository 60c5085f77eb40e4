"""The command line: options, what they name, and what each command does."""
