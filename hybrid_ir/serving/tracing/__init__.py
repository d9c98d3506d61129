"""OpenTelemetry's traces of a service, where `serve.traces` asks for them."""
