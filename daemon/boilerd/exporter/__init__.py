"""Metrics for Prometheus, and answers for whoever asks whether the daemon lives and serves; a child of the daemon.

It reads what `inspector` and `verdict` tell, once a second at most whoever asks, and knows no task's code.
"""
