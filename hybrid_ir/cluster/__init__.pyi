from .capacity import parse_request as parse_request, plan_index as plan_index, plan_training as plan_training
from .ray_cluster import live_nodes as live_nodes, ray_session as ray_session, term_is_interrupt as term_is_interrupt
from .ray_nodes import cluster_for as cluster_for, cluster_for_trials as cluster_for_trials
