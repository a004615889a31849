"""The worker process: claims tasks, runs attempts, settles the outcomes.

Knows neither the scheduler nor the supervisor that forked it.
"""
