"""Whether all is well: makes findings, sentences with a command that shows more, of facts that others have read.

Pure functions: it asks nobody, neither Redis nor the daemon, and prints nothing.
"""
