"""Further graphs of a folder: optimized, quantized, fused, with static shapes; each checked before it is added."""
