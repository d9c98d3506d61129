from .http_app import openapi as openapi
from .ray_serve.control import (
    refuse_used_port as refuse_used_port,
    roll_back as roll_back,
    running as running,
    swap as swap,
    wait_for_stop as wait_for_stop,
)
from .ray_serve.deployments import api_keys as api_keys
