//! One run: everybody at work, a fault, its end, and the sums.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::gateway::Settings;
use crate::fault::{Fault, Hogs};
use crate::ledger::{BOUND, Ledger, Sums};
use crate::mix::Mix;
use crate::people::{Ending, Person};
use crate::rig::Rig;

/// How long and how many.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How long the fault lasts.
    pub lasts: Duration,
    /// Persons of each kind of ending.
    pub persons: usize,
}

impl Plan {
    /// For the test suite.
    pub const SHORT: Self = Self { lasts: Duration::from_secs(4), persons: 2 };

    /// For the table.
    pub const LONG: Self = Self { lasts: Duration::from_secs(10), persons: 3 };
}

/// A row of the table.
#[derive(Clone, Debug)]
pub struct Figures {
    /// What went wrong.
    pub fault: Fault,
    /// What the book says.
    pub sums: Sums,
    /// From the fault's end until everything worked everywhere again.
    pub recovery: Duration,
    /// Database queries of both nodes, from the fault's beginning to the end of the run.
    pub queries: u64,
}

/// The time before the fault in which revocations already come: some are answered just as it begins.
const LEAD: Duration = Duration::from_millis(500);

/// Runs a fault from its beginning to the recovery.
pub async fn run(fault: Fault, plan: Plan) -> Figures {
    let rig = Arc::new(Rig::start(Settings::embedded()).await);
    let ledger = Arc::new(Ledger::default());
    let mut persons = Vec::new();
    for _ in 0..plan.persons {
        for ending in Ending::ALL {
            persons.push(Arc::new(Person::new(&rig, ending).await));
        }
    }
    let bystander = rig.node(0).signup().await;
    rig.works_for(&bystander).await;
    let mut mix = Mix::start(Arc::clone(&rig), Arc::clone(&ledger), &persons, &bystander).await;
    tokio::time::sleep(Duration::from_secs(1)).await;

    let before = rig.queries().await;
    let hogs = Hogs::default();
    // The last ones come when the fault is over.
    mix.revoke_all(&persons, LEAD + plan.lasts + LEAD);
    tokio::time::sleep(LEAD).await;
    let began = Instant::now();
    fault.begin(&rig).await;
    while began.elapsed() < plan.lasts {
        fault.go_on(&rig, &hogs).await;
        tokio::time::sleep(Duration::from_millis(500).min(plan.lasts.saturating_sub(began.elapsed()))).await;
    }
    fault.end(&rig, &hogs).await;
    let recovery = rig.works_for(&bystander).await;
    mix.all_revoked().await;
    // Whatever is accepted after the bound is seen.
    tokio::time::sleep(BOUND + Duration::from_millis(700)).await;
    let after = rig.queries().await;
    mix.end().await;
    // A node that was started again counts from nothing.
    let queries = before.iter().zip(&after).map(|(before, after)| after.checked_sub(*before).unwrap_or(*after)).sum();
    let figures = Figures { fault, sums: ledger.sums(), recovery, queries };
    if !(figures.sums.violations.is_empty() && figures.sums.false_rejections.is_empty()) {
        rig.members.iter().for_each(|member| member.gateway.show_log());
    }
    figures
}

impl Figures {
    /// Fails unless the first two promises were kept, and unless something was watched.
    pub fn must_keep_the_promises(&self) {
        eprintln!("{self:#?}");
        let sums = &self.sums;
        assert!(sums.violations.is_empty(), "accepted after the bound: {:#?}", sums.violations);
        assert!(sums.false_rejections.is_empty(), "good and refused: {:#?}", sums.false_rejections);
        assert!(sums.revocations >= Ending::ALL.len() as u64 && sums.accepted > 100 && sums.refused > 20, "{sums:?}");
    }
}
