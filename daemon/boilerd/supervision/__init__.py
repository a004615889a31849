"""Supervisor embedded as a library: it forks, watches, restarts and drains child processes.

Knows no task, no setting and no Redis.
"""
