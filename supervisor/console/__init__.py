"""The console: a small web page, for reading, in a process of its own that has no rights.

It shows what the API gives to whom it serves, by the same sections as the command line, and nothing
that came out of a sandbox is ever more than text.
"""
