"""What comes out of the runs of a study: read, judge, tables, then report and crate; a room knows of those before it only."""
