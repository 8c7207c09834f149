//! The protocol with one rule broken: the checker finds which invariant falls.
//!
//! Scopes are as small as they may be for that. A rule whose breaking changes nothing is here too, if somebody could think
//! that it is needed, or that it is not.

use crate::check::{finds, holds_without};
use crate::invariant::{
    CONDEMNED_FOR_EVER, CONDEMNED_IS_HIDDEN, FINDABLE, ONE_END, READER_SUCCEEDS, REMOVED_FIRST, STORED,
};
use crate::rules::Breakage;
use crate::scope::Scope;

fn alone() -> Scope {
    Scope { describes_orphans: false, ..Scope::whole(1, 1) }
}

fn without_reader(scope: Scope) -> Scope {
    Scope { reader: false, continues: false, describes_orphans: false, ..scope }
}

/// One writer, one prune.
fn small() -> Scope {
    without_reader(Scope::whole(1, 1))
}

/// One writer, two prunes.
fn two_prunes() -> Scope {
    without_reader(Scope::whole(1, 2))
}

#[test]
fn sessions_listed_before_the_condemned_packs_are_published() {
    finds(&[Breakage::SessionsListedEarly], small(), STORED);
}

#[test]
fn a_registration_that_a_heartbeat_replaces() {
    finds(&[Breakage::RegistrationReplaced], small(), STORED);
}

#[test]
fn no_second_listing_of_snapshots() {
    finds(&[Breakage::NoSecondListing], small(), STORED);
}

#[test]
fn a_forgotten_parent_that_does_not_count() {
    finds(&[Breakage::ForgottenParentIgnored], small(), STORED);
}

#[test]
fn a_parent_condemned_since_that_does_not_count() {
    finds(&[Breakage::CondemnedParentIgnored], two_prunes(), STORED);
}

#[test]
fn a_pack_that_is_uncondemned() {
    finds(&[Breakage::PackUncondemned], small(), CONDEMNED_FOR_EVER);
    finds(&[Breakage::PackUncondemned], two_prunes(), STORED);
}

#[test]
fn an_expiry_that_does_not_take_the_key() {
    finds(&[Breakage::ExpiryWithoutSharedKey], small(), ONE_END);
    finds(&[Breakage::ExpiryWithoutSharedKey], small(), STORED);
}

#[test]
fn packs_deleted_before_the_removal_segment() {
    finds(&[Breakage::DeletedBeforeRemoval], small(), REMOVED_FIRST);
    finds(&[Breakage::DeletedBeforeRemoval], alone(), READER_SUCCEEDS);
}

#[test]
fn removal_segments_before_the_segments_of_the_copies() {
    finds(&[Breakage::RemovalBeforeCopy], small(), FINDABLE);
    finds(&[Breakage::RemovalBeforeCopy], alone(), READER_SUCCEEDS);
}

#[test]
fn tombstones_deleted_before_the_snapshot_record() {
    finds(&[Breakage::TombstoneDeletedFirst], small(), CONDEMNED_IS_HIDDEN);
    finds(&[Breakage::TombstoneDeletedFirst], small(), STORED);
}

#[test]
fn snapshot_records_read_before_the_tombstones_are_listed() {
    finds(&[Breakage::RecordReadFirst], small(), STORED);
}

#[test]
fn a_copy_that_counts_a_pack_which_another_prune_condemned() {
    finds(&[Breakage::CopyTrustsCondemned], two_prunes(), STORED);
}

#[test]
fn a_copy_that_folds_before_it_reads_the_condemned_lists() {
    finds(&[Breakage::HomeFoldedEarly], two_prunes(), STORED);
}

#[test]
fn awaited_that_does_not_say_which_lists_it_covers() {
    finds(&[Breakage::EveryListCovered], two_prunes(), STORED);
}

#[test]
fn condemned_lists_dropped_that_awaited_did_not_cover() {
    finds(&[Breakage::EveryListDropped], two_prunes(), CONDEMNED_FOR_EVER);
    finds(&[Breakage::EveryListDropped], two_prunes(), STORED);
}

/// Not needed for safety: a list of sessions is good if it was made after the lists of packs that it is for were read.
#[test]
fn an_awaited_of_ones_own_does_no_harm() {
    holds_without(&[Breakage::AwaitedAfresh], two_prunes(), 2_673_397);
}

#[test]
fn a_parent_chosen_before_the_writer_registers() {
    finds(&[Breakage::ParentBeforeRegister], small(), STORED);
}

#[test]
fn condemned_lists_read_before_the_writer_registers() {
    finds(&[Breakage::CondemnedReadBeforeRegister], small(), STORED);
}

#[test]
fn segments_folded_before_the_condemned_lists_are_read() {
    finds(&[Breakage::FoldedBeforeCondemnedRead], small(), STORED);
}

#[test]
fn a_chunk_counted_in_a_condemned_pack() {
    finds(&[Breakage::CondemnedCounted], small(), STORED);
}

#[test]
fn a_checkpoint_taken_over_without_looking_up() {
    finds(&[Breakage::CheckpointTrusted], without_reader(Scope::whole(2, 1)), STORED);
}

#[test]
fn a_reader_that_folds_once() {
    finds(&[Breakage::ReaderFoldsOnce], alone(), READER_SUCCEEDS);
}

/// With two prunes one of the two rules is enough. With three it is not: see `story.rs`.
#[test]
fn one_listing_of_snapshots_while_their_records_are_deleted_beside_it() {
    finds(&[Breakage::SingleListing, Breakage::RecordsDeletedBesidePrunes], two_prunes(), STORED);
}

#[test]
fn one_listing_is_enough_where_no_record_is_deleted_beside_it() {
    holds_without(&[Breakage::SingleListing], two_prunes(), 1_858_681);
}
