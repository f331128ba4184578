"""Calico's resources, as its tools write them, to the model's frozen values: ``decode`` chooses by kind; a bad field is
an error that names object and field."""
