"""Attacks on a warehouse of one's own: what vectors and plugs give away to those who may read them."""
