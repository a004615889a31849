"""Every setting of the daemon, where its value comes from, and what is wrong with it.

Knows nothing of Redis, RQ or Supervisor.
"""
