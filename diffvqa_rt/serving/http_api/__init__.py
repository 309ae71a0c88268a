"""HTTP and JSON in front of the served ensembles, in a process of its own that asks them by the client.

`settings` is what the process is told, `process` starts and ends it, `inner_tls` lets it into a server that asks for
certificates. `bodies` reads a request's body, `asking` has the ensembles score what is in it, and `app` puts both
behind the paths of the API. FastAPI and uvicorn are imported in that process alone.
"""
