//! Breadth first through every state that can be reached, each once. So the first violation has a shortest path.
//!
//! States are told apart by a 64-bit hash, as model checkers do: among a million, two fall together with a probability
//! of one in thirty million, and then one of them is not looked at.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher as _};

use crate::config::Config;
use crate::state::State;
use crate::steps::Step;

/// More is no small size any more, and a test must end.
const MOST_STATES: usize = 700_000;

/// What a search found.
pub struct Outcome {
    /// States reached.
    pub states: usize,
    /// States in which a use was judged by a fact that R ended, after the bound. None, and nothing was tested.
    pub judged: usize,
    /// The steps to the first violation.
    pub violation: Option<Vec<Step>>,
}

struct Visited {
    from: Option<(u64, Step)>,
}

/// Explores until nothing is new, or a violation is found.
pub fn explore(config: &Config) -> Outcome {
    let initial = State::new(config);
    let mut visited = HashMap::from([(fingerprint(&initial), Visited { from: None })]);
    let mut frontier = VecDeque::from([initial]);
    let mut judged = 0;
    while let Some(state) = frontier.pop_front() {
        let here = fingerprint(&state);
        judged += usize::from(state.is_judging());
        if state.is_violated() {
            return Outcome { states: visited.len(), judged, violation: Some(path(&visited, here)) };
        }
        for step in state.steps(config) {
            let mut next = state.clone();
            next.take(step, config);
            visited.entry(fingerprint(&next)).or_insert_with(|| {
                frontier.push_back(next);
                Visited { from: Some((here, step)) }
            });
        }
        assert!(visited.len() <= MOST_STATES, "more than {MOST_STATES} states: choose a smaller size");
    }
    Outcome { states: visited.len(), judged, violation: None }
}

/// The steps with their times, for people.
pub fn told(path: &[Step]) -> String {
    let (mut text, mut tick) = (String::new(), crate::state::START);
    for step in path {
        match step {
            Step::Tick => tick += 1,
            step => writeln!(
                text,
                "  at {:4} ms  {step:?}",
                (tick - crate::state::START) * crate::state::TICK.as_millis() as u64
            )
            .expect("a string takes it"),
        }
    }
    text
}

fn path(visited: &HashMap<u64, Visited>, mut at: u64) -> Vec<Step> {
    let mut steps = Vec::new();
    while let Some((from, step)) = visited[&at].from {
        steps.push(step);
        at = from;
    }
    steps.reverse();
    steps
}

fn fingerprint(state: &State) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
}
