from .capacity import parse_request as parse_request
from .capacity import plan_index as plan_index
from .capacity import plan_training as plan_training
from .ray_cluster import live_nodes as live_nodes
from .ray_cluster import ray_session as ray_session
from .ray_nodes import cluster_for as cluster_for
from .ray_nodes import cluster_for_trials as cluster_for_trials
