"""A flood against a real Scheduler: what strangers do to it while honest clients work, and what those see.

Attackers, honest clients and the Scheduler are processes of their own. Most attackers are connections of a small C
program that writes prepared bytes; those that need answers to go on are Python. Attackers and honest clients share one
core and the Scheduler has another, as if they came from other machines.
"""
