from .http_app import openapi as openapi
from .ray_serve.control import ServiceLost as ServiceLost, running as running, wait_for_stop as wait_for_stop
from .ray_serve.deployments import api_keys as api_keys, build_app as build_app
from .ray_serve.machine_ports import refuse_used_port as refuse_used_port
from .ray_serve.swapping import roll_back as roll_back, swap as swap
