"""The words: frozen values that all other rooms speak in, made at the doors and never changed after."""
