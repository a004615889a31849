"""The scheduler process: renews leases, moves due tasks, recovers lost ones, enqueues periodic tasks.

Knows how a claim is settled, but never runs a task.
"""
