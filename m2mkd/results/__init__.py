"""Results of a study's runs: read, judge, tables, then report and crate; each subpackage imports only those before it."""
