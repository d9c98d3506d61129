"""The five studies: questions that a sweep answers, a YAML file each."""
