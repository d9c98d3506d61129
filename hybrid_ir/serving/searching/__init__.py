"""One search: the queues of a release, what its shards found, the policy that puts it in order, and its pages."""
