//! The smol client against a small broker.
