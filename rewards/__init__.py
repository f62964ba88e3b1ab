"""Rewards: named components of a trajectory or of a group, the vectors made of them, and the preferences that weigh them."""
