"""How settings reach a component: what is known about each setting, where it may come from, and who wins."""
