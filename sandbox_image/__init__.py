"""The Evaluator image: its host program in JavaScript (``host/``) and the recipe that makes an image of it."""
