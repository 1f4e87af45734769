"""The command line: one file a verb. Thin: parse, ask the daemon, print."""
