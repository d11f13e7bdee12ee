"""What stands around the routes, all of it pure ASGI; ``worker.py`` puts it together.

From the outside in: ``observed``, ``limits``, ``guard``, ``short_cut``, ``envelope``.
"""
