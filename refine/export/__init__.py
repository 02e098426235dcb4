"""What does a deployment take of a run? Files of its network, smaller where nothing is lost."""
