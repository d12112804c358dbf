"""A small trained pipeline of SDXL's architecture, and everything that made it."""
