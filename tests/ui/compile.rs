//! The attribute as the compiler sees it: the messages that are ours, and programs that it must not break.
//!
//! `TRYBUILD=overwrite` writes the expected messages anew. A program in `pass` is run as well, as a client, and so
//! does nothing in its client's half.

use trybuild::TestCases;

#[test]
fn every_mistake_is_reported_once_and_where_it_was_made() {
    TestCases::new().compile_fail("fail/*.rs");
}

#[test]
fn the_expansion_compiles_wherever_a_main_does() {
    TestCases::new().pass("pass/*.rs");
}
