"""Make graphs with static shapes."""
