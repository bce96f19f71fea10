"""Kernel kinds: each folder holds a kind's choices, cost, packing, steps and C template."""
