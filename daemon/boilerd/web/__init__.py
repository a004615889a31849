"""The web dashboard: one ASGI application, which shows what `inspector` reads and does what a person asks.

It needs no application code and holds no state of its own: what it has to know stands in Redis.
"""
