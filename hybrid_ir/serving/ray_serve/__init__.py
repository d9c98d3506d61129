"""Ray Serve's side: replicas, the gateway, the app, and how a running service is started, swapped and stopped."""
