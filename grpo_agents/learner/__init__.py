"""The learner: a policy's weights, log-probabilities of recorded tokens under them, and the update."""
