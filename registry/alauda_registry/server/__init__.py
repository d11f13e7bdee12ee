"""The registry's own server: the specification's endpoints over the storage library.

From a command to an answer: ``cli`` reads ``configuration``, ``run`` has ``opening`` check and open
what is configured and starts ``workers``; each puts ``middleware`` around the ``app``, whose
``routes`` answer with the modules beside this one. ``commands`` are those that do not serve.
"""
