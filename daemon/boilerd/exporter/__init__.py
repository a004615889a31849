"""Metrics for Prometheus, and answers for whoever asks whether the daemon lives and serves; a child of the daemon.

It reads what `inspector` and `verdict` tell, and knows no task's code.
"""
