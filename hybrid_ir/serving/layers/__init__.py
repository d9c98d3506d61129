"""What stands around the HTTP app in a gateway: each layer is an ASGI app around another."""
