"""The daemon put together: settings and an application become one tree of processes.

Only the command line may know it.
"""
