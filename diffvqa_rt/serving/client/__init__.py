"""The client: `address` says where the server is, `request` makes what is sent, `answers` reads what comes back.

`tls` has certificates, `waiter` ends what waits, and `diagnosis` finds out what answers where the server does not;
`client` has them all.
"""

from diffvqa_rt.serving.client.client import Client, RequestError
from diffvqa_rt.serving.client.tls import ClientTls

__all__ = ["Client", "ClientTls", "RequestError"]
