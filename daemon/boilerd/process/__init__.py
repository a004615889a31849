"""Means that every process of the daemon uses: signals, log lines, exit statuses, the shared scoreboard.

Knows no task, no setting and no broker.
"""
