"""Many answers from one pass of a frozen encoder."""
