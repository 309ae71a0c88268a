"""The build of the bundled weights, from nothing: `recipe` says what is trained, `stages` how."""
