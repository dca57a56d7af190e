"""Tables for programs and for people."""
