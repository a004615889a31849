"""Workers with several slots: `async def` handlers as tasks of one event loop, plain ones in threads.

The main thread runs the loop (`runner`); a thread beside it, the keeper, does all that concerns Redis.
"""
