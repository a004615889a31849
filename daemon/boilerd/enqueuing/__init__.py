"""What a client does: makes tasks of what an application enqueues, inside its middleware, and waits for their ends.

It knows no client: `boilerd.client` is what applications see of it.
"""
