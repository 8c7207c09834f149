//! Benchmarks of lakebed.
