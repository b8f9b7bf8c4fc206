"""Text generation without the model: what is asked of it, the prompt, and what is measured on its text."""
