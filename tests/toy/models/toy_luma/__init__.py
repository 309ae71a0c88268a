"""The toy metric's network in torch."""
