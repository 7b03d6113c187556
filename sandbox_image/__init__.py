"""The Evaluator image: the host program in JavaScript (``host/``) and the recipe that puts it into a container image."""
