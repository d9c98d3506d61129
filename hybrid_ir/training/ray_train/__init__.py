"""Ray Train's side of a training: the launcher, its workers, where they meet."""
