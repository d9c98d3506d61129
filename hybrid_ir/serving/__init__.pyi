from .client import SearchClient as SearchClient
from .ray_serve.control import (
    refuse_used_port as refuse_used_port,
)
from .ray_serve.control import (
    roll_back as roll_back,
)
from .ray_serve.control import (
    running as running,
)
from .ray_serve.control import (
    swap as swap,
)
from .ray_serve.control import (
    wait_for_stop as wait_for_stop,
)
from .ray_serve.deployments import api_keys as api_keys
