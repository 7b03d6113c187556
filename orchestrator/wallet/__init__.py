"""Addresses, keystores, keystore files and where they are looked for."""
