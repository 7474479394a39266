"""Make and check graphs with static shapes."""
