"""What every process of the daemon needs: signals, log lines, exit statuses, the shared scoreboard.

Knows no task, no setting and no broker.
"""
