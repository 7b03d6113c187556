"""A self-hostable distributed computer that speaks DCP, the Distributive Compute Protocol."""

__version__ = "0.1.0"
