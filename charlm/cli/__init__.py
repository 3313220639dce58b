"""The command line: arguments and display only."""
