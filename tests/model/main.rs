//! The revocation log, its two carriers and the freshness rule, in every order that a small world allows.
//!
//! `docs/model.md` says what is modelled and what is left out.

mod config;
mod explorer;
mod state;
mod steps;

use config::{Config, Without};
use explorer::{explore, told};

/// No use that began after the bound is accepted, whatever the order.
fn holds(name: &str, config: &Config) {
    let outcome = explore(config);
    println!("{name}: {} states, {} of them judge a stale fact", outcome.states, outcome.judged);
    if let Some(path) = outcome.violation {
        panic!("{name}: violated after {} states:\n{}", outcome.states, told(&path));
    }
    assert!(outcome.judged > 100, "the search met nothing to judge: {}", outcome.judged);
}

/// The same world without one guard is not safe.
fn needs(guard: Without, config: Config) {
    let outcome = explore(&config.without(guard));
    let path = outcome.violation.unwrap_or_else(|| panic!("{guard:?} is not needed in {} states", outcome.states));
    println!("without {guard:?}, after {} states:\n{}", outcome.states, told(&path));
}

#[test]
fn the_log_alone_lets_nothing_stale_through() {
    holds("log", &Config::log());
}

#[test]
fn the_lease_lets_nothing_stale_through() {
    holds("lease", &Config::lease());
}

/// R is under way when the checker first hears of the revoker, and its message may be lost.
#[test]
fn a_baseline_taken_while_a_revocation_is_under_way_lets_nothing_stale_through() {
    holds("baseline", &Config::baseline());
}

#[test]
fn a_baseline_must_wait_until_what_it_covers_is_settled() {
    needs(Without::SettledBeforeLogRead, Config::baseline());
}

#[test]
fn the_marks_must_be_checked() {
    needs(Without::MarksChecked, Config::log());
}

#[test]
fn the_horizon_must_rise_after_the_entries_are_applied() {
    needs(Without::AppliedBeforeRise, Config::log());
}

#[test]
fn the_time_of_a_log_read_must_be_taken_before_it_is_sent() {
    needs(Without::TimeTakenBeforeRead, Config::log());
}

#[test]
fn the_log_must_be_read_by_snapshot_and_not_by_id() {
    needs(Without::CursorBySnapshot, Config::log());
}

#[test]
fn redis_must_not_be_believed_about_time() {
    needs(Without::DistrustOfRedis, Config::log());
}

#[test]
fn a_record_must_carry_the_least_open_transaction() {
    needs(Without::PositionBySnapshot, Config::log());
}

#[test]
fn an_answer_of_the_database_must_be_checked_when_it_is_used() {
    needs(Without::FillChecked, Config::log());
}

#[test]
fn own_beats_must_not_make_a_lease() {
    needs(Without::PeersAsked, Config::lease());
}

#[test]
fn beats_must_count_announced_messages() {
    needs(Without::AnnouncedCounted, Config::lease());
}

#[test]
fn a_baseline_must_wait_for_a_log_read() {
    needs(Without::LogReadAfterBaseline, Config::baseline());
}
