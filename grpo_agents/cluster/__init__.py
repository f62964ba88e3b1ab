"""A run on many machines: rollout workers and learner ranks as actors of Ray. Importing this imports no Ray."""
