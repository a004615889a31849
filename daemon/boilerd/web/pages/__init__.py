"""The pages: a module here, a template of the same name, and it is there; `boilerd.web.page` says how.

Each module declares one page with its actions, or a few that belong together. It knows nothing of HTTP, HTML or JSON.
"""
